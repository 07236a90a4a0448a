"""Detectors and starting weights from and to files. Tensors and plain types only, so that reading runs nothing."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backbone import LoadReport, PyramidTrunk, require_loaded
from backbone import load_weights as load_backbone_weights
from backbone.hub import fetch, is_name, recipe_of
from backbone.resnet import Conv5
from backbone.weights import Weights, check_recipe, read_weights, require_same_network
from detection.checkpoint.keys import from_detectron2, is_detectron2
from detection.config import Config, ModelConfig, config_from_dict, config_to_dict, override
from detection.modeling.build import build_model
from detection.modeling.faster_rcnn import FasterRCNN
from detection.utils.atomic_io import replacing

_LOG = logging.getLogger(__name__)
CARD = "resdet"  # the entry under which a checkpoint says what it is
CLASSIFIER = "classifier"  # and that of a classifier's
_COUNTER = "num_batches_tracked"  # which no frozen norm has, and many files lack
_PER_CLASS = ("roi_head.classes.", "roi_head.deltas.")
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
    with replacing(Path(path)) as part:
        torch.save({CARD: card(config, classes), "model": model.state_dict()}, part)


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


def read_detector(source: str | Path | Weights, overrides: Sequence[str] = ()) -> tuple[FasterRCNN, Config, Classes]:
    """As :func:`load_detector`, with the configuration and the category ids. ``overrides`` change keys of the former."""
    weights = source if isinstance(source, Weights) else read_weights(source)
    about = read_card(weights)
    if about is None:
        theirs = is_detectron2(weights.tensors)
        advice = (
            "it is detectron2's; resdet convert-weights makes one of this project of it"
            if theirs
            else "a backbone's weights go to --weights of training"
        )
        raise ValueError(f"{weights.source} is no detector of this project (it lacks the entry {CARD!r}): {advice}")
    config = config_from_dict(override(about["config"], overrides), weights.source)
    classes = Classes(tuple(about["classes"]), tuple(about["category_ids"]))
    model = build_model(config.model, len(classes.names))
    _load_strictly(model, detector_state(weights), weights.source)
    return model.eval(), config, classes


def load_weights(model: FasterRCNN, source: str | Path | Weights) -> None:
    """A whole detector's weights, in detectron2's or this project's layout, into ``model``. Every tensor must be there.

    Raises:
        FileNotFoundError, ValueError: no such file, not this model's weights (names the tensors), or of another recipe.
    """
    weights = source if isinstance(source, Weights) else read_weights(source)
    implied = recipe_implied(weights)
    if implied is not None and implied != model.recipe.name:
        raise ValueError(
            f"{weights.source} was trained with recipe {implied!r}, the detector has {model.recipe.name!r}; set "
            f"model.recipe={implied}"
        )
    for part in backbone_parts(model):
        check_recipe(part, model.recipe)
    _load_strictly(model, detector_state(weights), weights.source)


def read_card(weights: Weights) -> dict[str, Any] | None:
    """What a detector of this project says of itself; None for other files."""
    return weights.content.get(CARD) if isinstance(weights.content, dict) else None


def recipe_implied(weights: Weights) -> str | None:
    """The recipe that a file tells, a detector's or a network's."""
    about = read_card(weights)
    return weights.recipe if about is None else about["config"]["model"]["recipe"]


def detector_state(weights: Weights) -> dict[str, Tensor]:
    """A file's tensors under a detector's names; of a training state the averaged ones, where it has them."""
    content = weights.content
    if not isinstance(content, dict):
        raise ValueError(f"{weights.source}: wanted a dictionary of tensors, got a {type(content).__name__}")
    if isinstance(content.get("model"), dict):
        state = content["model"]
    else:
        everything = content.get("state_dict", content)
        averaged, trained = (
            {k.removeprefix(place): v for k, v in everything.items() if k.startswith(place)}
            for place in (_AVERAGE, _MODEL)
        )
        state = averaged or trained or everything
    tensors = {str(k): torch.as_tensor(v) for k, v in state.items() if isinstance(v, Tensor | np.ndarray)}
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    if weights.layout == "detectron2":
        return from_detectron2(tensors)
    # what the head was called before there were heads of other kinds
    return {name.replace("roi_head.conv5.", "roi_head.head.", 1): tensor for name, tensor in tensors.items()}


def local_file(weights: str | Path) -> Path:
    """The file of a weights argument: a path, or a name such as torchvision://resnet50, which is fetched.

    Raises:
        ConnectionError, ValueError: the name is unknown, or cannot be fetched.
    """
    return fetch(str(weights)) if is_name(str(weights)) else Path(weights)


def start_weights(model: FasterRCNN, config: ModelConfig, classes: Classes) -> LoadReport | None:
    """Fills a new model with ``config.weights``: a backbone's, or a whole detector's for fine-tuning. Returns the
    backbone's report.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: the weights cannot be had or do not fit, the classes differ, or a
            frozen norm would stand on random weights.
    """
    parts = backbone_parts(model)
    if config.weights is None:
        require_loaded(parts, ())
        return None
    path = local_file(config.weights)
    weights = read_weights(path)
    implied = (recipe_of(config.weights) if is_name(config.weights) else None) or recipe_implied(weights)
    if implied is not None and implied != config.recipe:
        raise ValueError(
            f"{config.weights} was trained with recipe {implied!r}, the configuration says {config.recipe!r}; "
            f"set model.recipe={implied}"
        )
    about = read_card(weights)
    if about is not None:
        classes.check(Classes(tuple(about["classes"]), tuple(about["category_ids"])), "the data", str(path))
        load_weights(model, weights)
        return None
    if is_detectron2(weights.tensors):
        _start_from_detectron2(model, weights)
        return None
    report = load_backbone_weights(parts, weights, config.recipe)
    require_same_network(report)
    require_loaded(parts, report.loaded)
    _LOG.info("weights %s: %s", path, report)
    return report


def _start_from_detectron2(model: FasterRCNN, weights: Weights) -> None:
    """A whole detector; with another number of classes all of it but the class and box layers, which then learn anew."""
    state, mine = detector_state(weights), model.state_dict()
    other = [k for k in state if k.startswith(_PER_CLASS) and k in mine and state[k].shape != mine[k].shape]
    if other:
        _LOG.warning(
            "%s has %d classes and the data %d: its class and box layers are left out, all else is taken",
            weights.source,
            len(state.get("roi_head.classes.weight", ())) - 1,
            model.roi_head.num_classes,
        )
        state = {k: v for k, v in state.items() if k not in other} | {k: mine[k] for k in other}
    for part in backbone_parts(model):
        check_recipe(part, model.recipe)
    _load_strictly(model, state, weights.source)


def backbone_parts(model: FasterRCNN) -> list[nn.Module]:
    """The modules that together have a ResNet's key names."""
    trunk = model.trunk.body if isinstance(model.trunk, PyramidTrunk) else model.trunk
    head = model.roi_head.head
    return [trunk, head] if isinstance(head, Conv5) else [trunk]


def check_state(about: dict[str, Any], state: dict[str, Tensor], where: str) -> None:
    """Refuses tensors that are not those of the detector that a card describes.

    Raises:
        ValueError: lists what differs.
    """
    config = config_from_dict(about["config"], where)
    with torch.device("meta"):
        model = build_model(config.model, len(about["classes"]))
    check_tensors(model, state, where)


def _load_strictly(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    state = {k: v for k, v in state.items() if not k.endswith(_COUNTER)}
    check_tensors(model, state, where)
    model.load_state_dict(state, strict=False)


def check_tensors(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Raises ValueError unless ``state`` has the tensors of ``model``, all of them and no others; lists what differs."""
    state = {k: v for k, v in state.items() if not k.endswith(_COUNTER)}
    mine = {k: v for k, v in model.state_dict().items() if not k.endswith(_COUNTER)}
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
