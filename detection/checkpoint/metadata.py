"""What a checkpoint says of itself: format, configuration, classes, and where its backbone came from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from backbone.adapters.foreign import is_foreign
from backbone.weights import Weights
from detection.config import Config, config_from_dict, config_to_dict, override

KEY = "resdet"  # its entry in a file
CLASSIFIER = "classifier"  # that of a classifier
FORMAT = 2
MODULE = "module"  # the source of a backbone that no configuration describes


@dataclass(frozen=True)
class Classes:
    """Names of labels 1..K, and their category ids in results."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def check(self, other: "Classes", where: str, other_where: str) -> None:
        """Raise ValueError that lists both when the names differ."""
        if self.names != other.names:
            raise ValueError(
                f"different classes:\n  {where}: {', '.join(self.names)}\n  {other_where}: {', '.join(other.names)}"
            )


@dataclass(frozen=True)
class Metadata:
    """What is known of the weights beside them.

    Attributes:
        tree: the configuration as nested dictionaries.
        classes: of the detector.
        backbone: its ``source``, which is resdet, timm or module, and its ``name``.
    """

    tree: dict[str, Any]
    classes: Classes
    backbone: dict[str, str] = field(default_factory=dict)

    def config(self, where: str, overrides: Sequence[str] = ()) -> Config:
        """Return the configuration with "key=value" entries changed; ``where`` names the file in errors."""
        return config_from_dict(override(self.tree, overrides), where)

    @property
    def is_module(self) -> bool:
        """Whether the model was a module of the user's own, which the configuration cannot build."""
        return self.backbone["source"] == MODULE

    def to_dict(self) -> dict[str, Any]:
        """Return what a file holds under ``KEY``."""
        return {
            "format": FORMAT,
            "config": self.tree,
            "classes": list(self.classes.names),
            "category_ids": list(self.classes.category_ids),
            "backbone": dict(self.backbone),
        }


def describe(config: Config, classes: Classes, module: str | None = None) -> Metadata:
    """Return the metadata of a detector.

    Args:
        config: that built it.
        classes: its classes.
        module: what a model was that the configuration did not build; None for one that it did.
    """
    name = config.model.backbone
    source = MODULE if module is not None else ("timm" if is_foreign(name) else "resdet")
    return Metadata(config_to_dict(config), classes, {"source": source, "name": module or name})


def parse_metadata(entry: dict[str, Any], where: str) -> Metadata:
    """Read the entry ``KEY`` of a file, of this format or an older one.

    Raises:
        ValueError: the format is newer than this version, or none.
    """
    number = entry.get("format")
    if not isinstance(number, int) or number < 1:
        raise ValueError(f"{where}: its checkpoint format is {number!r}, wanted a number from 1 to {FORMAT}")
    if number > FORMAT:
        raise ValueError(
            f"{where} has checkpoint format {number}, and this version of resdet reads formats up to {FORMAT}: update resdet"
        )
    for old in range(number, FORMAT):
        entry = _MIGRATIONS[old](entry)
    classes = Classes(tuple(entry["classes"]), tuple(entry["category_ids"]))
    return Metadata(entry["config"], classes, entry["backbone"])


def read_metadata(weights: Weights) -> Metadata | None:
    """Return what a detector of this project says of itself; None for other files.

    Raises:
        ValueError: as :func:`parse_metadata`.
    """
    entry = weights.content.get(KEY) if isinstance(weights.content, dict) else None
    return None if entry is None else parse_metadata(entry, weights.source)


def _add_backbone(entry: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had networks of this project alone."""
    return {**entry, "backbone": {"source": "resdet", "name": entry["config"]["model"]["backbone"]}}


# from a format to the next
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _add_backbone}
