"""What a checkpoint says of itself: format, configuration, classes, and where its backbone came from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backbone.adapters.foreign import is_foreign
from backbone.weights import Weights
from detection.config import Config, config_from_dict, config_to_dict, override

KEY = "resdet"  # its entry in a file
CLASSIFIER = "classifier"  # that of a classifier
FORMAT = 2
MODULE = "module"  # the source of a backbone that no configuration describes
_SOURCES = ("resdet", "timm", MODULE)
_KINDS: dict[type, str] = {int: "an integer", str: "text", dict: "a dictionary", list: "a list"}
_ADVICE = "is it whole, and of this project? Of another project's file save the state dict alone, or rename the entry"
T = TypeVar("T")


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


def parse_metadata(entry: Any, where: str) -> Metadata:
    """Read the entry ``KEY`` of a file, of this format or an older one.

    Raises:
        ValueError: the format is newer than this version, or the entry is another project's or damaged; names the key.
    """
    card = _Entry(entry, where, KEY)
    number = card.take("format", int)
    if number < 1:
        raise ValueError(f"{where}: its checkpoint format is {number!r}, wanted a number from 1 to {FORMAT}")
    if number > FORMAT:
        raise ValueError(
            f"{where} has checkpoint format {number}, and this version of resdet reads formats up to {FORMAT}: update resdet"
        )
    tree = card.take("config", dict)
    model = _Entry(tree.get("model"), where, f"{KEY}.config.model")
    model.take("recipe", str)
    model.take("backbone", str)
    for old in range(number, FORMAT):
        entry = _MIGRATIONS[old](entry)
    card = _Entry(entry, where, KEY)
    names, ids = card.take_list("classes", str), card.take("category_ids", list)
    whole = len(ids) == len(names) and all(isinstance(i, int | str) for i in ids)
    if not names or len(set(names)) != len(names) or not whole:
        raise ValueError(
            f"{where}: its checkpoint metadata has the classes {names!r:.200} with the category ids {ids!r:.200}: wanted "
            f"different names, and as many ids; {_ADVICE}"
        )
    backbone = _Entry(card.take("backbone", dict), where, f"{KEY}.backbone")
    source = {key: backbone.take(key, str) for key in ("source", "name")}
    if source["source"] not in _SOURCES:
        raise ValueError(
            f"{where}: its checkpoint metadata has backbone.source={source['source']!r}, wanted one of "
            f"{', '.join(_SOURCES)}; {_ADVICE}"
        )
    return Metadata(tree, Classes(tuple(names), tuple(ids)), source)


@dataclass(frozen=True)
class _Entry:
    """A dictionary of a file's, whose values are checked as they are taken."""

    content: Any
    where: str
    name: str

    def take(self, key: str, kind: type[T]) -> T:
        """Return a value, or raise ValueError that names the key and what is there."""
        if not isinstance(self.content, dict):
            raise self._error(f"its entry {self.name!r} is {self.content!r:.80}, wanted a dictionary")
        if key not in self.content:
            raise self._error(f"its entry {self.name!r} has no {key!r}")
        value = self.content[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self._error(f"its {key} is {value!r:.80}, wanted {_KINDS[kind]}")
        return value

    def take_list(self, key: str, kind: type[T]) -> list[T]:
        """Return a list of values of one kind."""
        values = self.take(key, list)
        for value in values:
            if not isinstance(value, kind) or isinstance(value, bool):
                raise self._error(f"its {key} has {value!r:.80}, wanted {_KINDS[kind]} each")
        return values

    def _error(self, fault: str) -> ValueError:
        return ValueError(f"{self.where} has no checkpoint metadata of this project: {fault}; {_ADVICE}")


def classifier_entry(content: Any, where: str) -> dict[str, Any] | None:
    """Return what a classifier of this project says of itself ("config", "classes"); None for other files.

    Raises:
        ValueError: the entry is damaged; names the key.
    """
    entry = content.get(CLASSIFIER) if isinstance(content, dict) else None
    if not isinstance(entry, dict) or "config" not in entry:  # another project's layer of that name
        return None
    card = _Entry(entry, where, CLASSIFIER)
    return {**entry, "config": card.take("config", dict), "classes": card.take_list("classes", str)}


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
