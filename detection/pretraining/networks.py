"""A classifier's network from its configuration, and what its file says of itself."""

from pathlib import Path
from typing import Any

from backbone.recipe import RECIPES
from backbone.resnet import ResNet, network
from backbone.weights import read_file
from detection.pretraining.config import NetworkConfig

CARD = "classifier"  # the entry under which a file says what it is


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
    if not config.name.startswith("cifar"):
        options |= {"stride_in": recipe.stride_in, "stem_pool": recipe.stem_pool}
    return network(config.name, num_classes=num_classes, **options)


def read_card(path: str | Path) -> dict[str, Any] | None:
    """{"config", "classes"} of a classifier that was trained here, None for weights from elsewhere.

    Raises:
        FileNotFoundError, ValueError: no such file, or not readable as weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    content = read_file(path)
    return content.get(CARD) if isinstance(content, dict) else None
