"""Build a classifier's network from its configuration, or read it from a file."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backbone.recipe import RECIPES, Recipe
from backbone.resnet import ResNet, network
from backbone.weights import load_weights, read_weights, require_complete
from detection.checkpoint.metadata import classifier_entry
from detection.classification.config import ClassifierConfig, NetworkConfig
from detection.config import from_dict


def build_network(config: NetworkConfig, num_classes: int) -> ResNet:
    """Build the network of a configuration.

    Raises:
        ValueError: unknown network or recipe.
    """
    if config.recipe not in RECIPES:
        raise ValueError(f"unknown recipe {config.recipe!r}: expected one of {', '.join(RECIPES)}")
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
        recipe: of its weights (image normalisation).
        classes: class names; None where the file has none.
        config: of its training; None for external weights.
    """

    net: ResNet
    recipe: Recipe
    classes: tuple[str, ...] | None
    config: ClassifierConfig | None


def read_classifier(
    path: str | Path, name: str | None = None, recipe: str | None = None, network_config: NetworkConfig | None = None
) -> Classifier:
    """Read a network and its classifier from a file.

    Args:
        path: best.pth of a run, or any weights of a network of :mod:`backbone`.
        name: of the network; None takes the file's, else resnet50.
        recipe: of the weights; None takes the file's, else torchvision's.
        network_config: of the network; overrides the file, name and recipe.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not readable as weights, without a classifier, or weights of another network.
    """
    weights = read_weights(path)
    if "fc.weight" not in weights.tensors:
        raise ValueError(f"{path} has no classifier (fc.weight): it is a backbone")
    metadata = classifier_entry(weights.content, weights.source)
    config = from_dict(ClassifierConfig, metadata["config"], str(path)) if metadata else None
    if network_config is None:
        default = config.network if config is not None else NetworkConfig()
        network_config = dataclasses.replace(
            default, name=name or default.name, recipe=recipe or weights.recipe or default.recipe
        )
    net = build_network(network_config, len(weights.tensors["fc.weight"]))
    require_complete(load_weights(net, weights, network_config.recipe))
    classes = tuple(metadata["classes"]) if metadata else None
    return Classifier(net.eval(), RECIPES[network_config.recipe], classes, config)
