"""Detectors and starting weights from and to files. Tensors and plain types only, so that reading runs nothing."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbone import LoadReport, require_loaded
from backbone import load_weights as load_backbone_weights
from backbone.hub import fetch, is_name, recipe_of
from backbone.weights import read_file, read_weights
from detection.build import build_model
from detection.config import Config, ModelConfig
from detection.config_io import config_from_dict, config_to_dict, override
from detection.faster_rcnn import FasterRCNN

_LOG = logging.getLogger(__name__)
CARD = "resdet"  # the entry under which a checkpoint says what it is
_MODEL, _AVERAGE = "model.", "average.module."  # where a training state holds the weights


@dataclass(frozen=True)
class Classes:
    """Names of labels 1..K, and the ids that they have in results."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def check(self, other: "Classes", where: str, other_where: str) -> None:
        """Raises ValueError that lists both when the names differ."""
        if self.names != other.names:
            raise ValueError(
                f"different classes:\n  {where}: {', '.join(self.names)}\n  {other_where}: {', '.join(other.names)}"
            )


def card(config: Config, classes: Classes) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    return {
        "format": 1,
        "config": config_to_dict(config),
        "classes": list(classes.names),
        "category_ids": list(classes.category_ids),
    }


def save_detector(path: str | Path, model: nn.Module, config: Config, classes: Classes) -> None:
    """The weights with their card, without training state; replaces the file at once or not at all."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    torch.save({CARD: card(config, classes), "model": model.state_dict()}, part)
    part.replace(path)


def load_detector(path: str | Path) -> tuple[FasterRCNN, tuple[str, ...]]:
    """A trained detector, ready to detect, and its class names (label k is classes[k - 1]).

    Args:
        path: best.pth or last.pth of a run; of the latter the averaged weights, where it has them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a detector of this project, or damaged.
    """
    model, _, classes = read_detector(path)
    return model, classes.names


def read_detector(path: str | Path, overrides: Sequence[str] = ()) -> tuple[FasterRCNN, Config, Classes]:
    """As :func:`load_detector`, with the configuration and the category ids. ``overrides`` change keys of the former."""
    content = _read(path)
    if not is_detector(content):
        raise ValueError(
            f"{path} is no detector of this project (it lacks the entry {CARD!r}); a backbone's weights go to --weights "
            "of training"
        )
    about = content[CARD]
    config = config_from_dict(override(about["config"], overrides), str(path))
    classes = Classes(tuple(about["classes"]), tuple(about["category_ids"]))
    model = build_model(config.model, len(classes.names))
    _load_strictly(model, _state(content), str(path))
    return model.eval(), config, classes


def load_weights(model: FasterRCNN, path: str | Path) -> None:
    """A whole detector's weights into ``model``; every tensor must be there and fit.

    Raises:
        FileNotFoundError, ValueError: no such file, or not this model's weights; names the tensors.
    """
    _load_strictly(model, _state(_read(path)), str(path))


def is_detector(content: Any) -> bool:
    """Whether a file's content is a detector of this project."""
    return isinstance(content, dict) and CARD in content


def start_weights(model: FasterRCNN, config: ModelConfig, classes: Classes) -> LoadReport | None:
    """Fills a new model with ``config.weights``: a backbone's, or a whole detector's for fine-tuning. Returns the
    backbone's report.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: the weights cannot be had or do not fit, the classes differ, or a
            frozen norm would stand on random weights.
    """
    parts = (model.trunk, model.roi_head.conv5)
    if config.weights is None:
        require_loaded(parts, ())
        return None
    path, implied = Path(config.weights), None
    if is_name(config.weights):
        path, implied = fetch(config.weights), recipe_of(config.weights)
    weights = read_weights(path)
    content = weights.content
    if is_detector(content):
        about = content[CARD]
        implied = about["config"]["model"]["recipe"]
    if implied is not None and implied != config.recipe:
        raise ValueError(
            f"{config.weights} was trained with recipe {implied!r}, the configuration says {config.recipe!r}; "
            f"set model.recipe={implied}"
        )
    if is_detector(content):
        theirs = Classes(tuple(about["classes"]), tuple(about["category_ids"]))
        classes.check(theirs, "the data", str(path))
        _load_strictly(model, _state(content), str(path))
        return None
    report = load_backbone_weights(parts, weights, config.recipe)
    require_loaded(parts, report.loaded)
    _LOG.info("weights %s: %s", path, report)
    return report


def _read(path: str | Path) -> Any:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    return read_file(path)


def _state(content: Any) -> dict[str, Tensor]:
    """The weights of best.pth ("model"), of last.pth (a training state, averaged weights first), or of a bare state dict."""
    if not isinstance(content, dict):
        raise ValueError(f"wanted a dictionary of tensors, got a {type(content).__name__}")
    if isinstance(content.get("model"), dict):
        return content["model"]
    state = content.get("state_dict", content)
    for prefix in (_AVERAGE, _MODEL):
        chosen = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        if chosen:
            return chosen
    return dict(state)


def _load_strictly(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    mine = model.state_dict()
    faults = [f"missing {k}" for k in mine if k not in state] + [f"unknown {k}" for k in state if k not in mine]
    faults += [
        f"{k} has {list(state[k].shape)}, wanted {list(mine[k].shape)}"
        for k in mine
        if k in state and mine[k].shape != state[k].shape
    ]
    if faults:
        raise ValueError(
            f"{where} does not hold this detector's weights ({len(faults)} differences): {'; '.join(faults[:5])}"
        )
    model.load_state_dict(state)
