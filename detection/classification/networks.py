"""A classifier's network from its configuration or from its file."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.recipe import RECIPES, Recipe
from backbone.resnet import ResNet, network
from backbone.weights import load_weights, read_weights, require_complete
from detection.checkpoint.metadata import CLASSIFIER
from detection.classification.config import ClassifierConfig, NetworkConfig
from detection.config import from_dict


def build_network(config: NetworkConfig, num_classes: int) -> ResNet:
    """The network of a configuration.

    Raises:
        ValueError: unknown network or recipe.
    """
    if config.recipe not in RECIPES:
        raise ValueError(f"unknown recipe {config.recipe!r}: wanted one of {', '.join(RECIPES)}")
    recipe = RECIPES[config.recipe]
    options: dict[str, Any] = {"norm": config.norm, "zero_init_residual": config.zero_init_residual}
    if config.shortcut is not None:
        options["shortcut"] = config.shortcut
    stages = 3
    if not config.name.startswith("cifar"):
        options |= {"stride_in": recipe.stride_in, "stem_pool": recipe.stem_pool}
        stages = 4
    if config.width is not None:
        options |= {"stem_width": config.width, "widths": [config.width * 2**i for i in range(stages)]}
    return network(config.name, num_classes=num_classes, **options)


@dataclass(frozen=True)
class Classifier:
    """A trained network.

    Attributes:
        net: in evaluation mode.
        recipe: how it takes pictures.
        classes: their names; None where the file does not say.
        config: the experiment that it comes from; None for weights from elsewhere.
    """

    net: ResNet
    recipe: Recipe
    classes: tuple[str, ...] | None
    config: ClassifierConfig | None


def read_classifier(
    path: str | Path, name: str | None = None, recipe: str | None = None, wanted: NetworkConfig | None = None
) -> Classifier:
    """The network of a file, with its classifier.

    Args:
        path: best.pth of a run, or any weights of a network of :mod:`backbone`.
        name: of the network; None takes the file's own, else resnet50.
        recipe: of the weights; None takes the file's own, else torchvision's.
        wanted: the network, whatever file, name and recipe say.

    Raises:
        FileNotFoundError, ValueError: no such file, not readable as weights, without a classifier, or another network's.
    """
    weights = read_weights(path)
    if "fc.weight" not in weights.tensors:
        raise ValueError(f"{path} has no classifier (fc.weight): it is a trunk, and cannot name classes")
    card = weights.content.get(CLASSIFIER) if isinstance(weights.content, dict) else None
    config = from_dict(ClassifierConfig, card["config"], str(path)) if card else None
    if wanted is None:
        own = config.network if config is not None else NetworkConfig()
        wanted = dataclasses.replace(own, name=name or own.name, recipe=recipe or weights.recipe or own.recipe)
    net = build_network(wanted, len(weights.tensors["fc.weight"]))
    require_complete(load_weights(net, weights, wanted.recipe))
    classes = tuple(map(str, card["classes"])) if card else None
    return Classifier(net.eval(), RECIPES[wanted.recipe], classes, config)
