"""Detectors from and to files. Tensors and plain types only, so that reading runs nothing."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from backbone import PyramidTrunk
from backbone.adapters.foreign import TimmConv5
from backbone.hub import fetch, is_name
from backbone.layouts import is_torchvision_detector
from backbone.resnet import Conv5
from backbone.weights import Weights, check_recipe, read_weights
from detection.checkpoint.keys import from_detectron2, from_torchvision, is_detectron2
from detection.checkpoint.metadata import KEY, Classes, Metadata, describe, read_metadata
from detection.config import Config
from detection.modeling.build import build_model
from detection.modeling.faster_rcnn import FasterRCNN
from detection.utils.atomic_io import replacing

_COUNTER = "num_batches_tracked"  # which no frozen norm has, and many files lack
_LOG = logging.getLogger(__name__)


def save_detector(
    path: str | Path, model: nn.Module, config: Config, classes: Classes, module: str | None = None
) -> None:
    """Write weights and metadata, without training state; the file is replaced as a whole or not at all.

    Args:
        path: of the file.
        model: the detector.
        config: that built it.
        classes: its classes.
        module: what the model was if the configuration did not build it (:func:`describe`).
    """
    with replacing(Path(path)) as part:
        torch.save({KEY: describe(config, classes, module).to_dict(), "model": model.state_dict()}, part)


def load_detector(path: str | Path, model: FasterRCNN | None = None) -> tuple[FasterRCNN, tuple[str, ...]]:
    """Load a trained detector, ready to detect, and its class names (label k is classes[k - 1]).

    Args:
        path: best.pth or last.pth of a run; of the latter the averaged weights, where it has them.
        model: the model to fill, built as for training, where its backbone or head was a module of your own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a detector of this project, damaged, of a newer format, or of a module of your own without ``model``.
    """
    detector, _, classes = read_detector(path, model=model)
    return detector, classes.names


def read_detector(
    source: str | Path | Weights, overrides: Sequence[str] = (), model: FasterRCNN | None = None
) -> tuple[FasterRCNN, Config, Classes]:
    """As :func:`load_detector`, with the configuration and the category ids. ``overrides`` change keys of the former."""
    weights = source if isinstance(source, Weights) else read_weights(source)
    metadata = require_metadata(weights)
    config = metadata.config(weights.source, overrides)
    if model is None:
        if metadata.is_module:
            raise ValueError(
                f"{weights.source} is a detector on a module of your own ({metadata.backbone['name']}), which no "
                "configuration builds: build it as for training, and pass it as model="
            )
        model = build_model(config.model, len(metadata.classes.names))
    load_state(model, detector_state(weights), weights.source)
    return model.eval(), config, metadata.classes


def require_metadata(weights: Weights) -> Metadata:
    """Return a detector's metadata, or raise ValueError that says what the file is."""
    metadata = read_metadata(weights)
    if metadata is None:
        project = ""
        if is_detectron2(weights.tensors):
            project = "detectron2"
        elif is_torchvision_detector(weights.state):
            project = "torchvision"
        advice = (
            f"it is {project}'s; resdet convert-weights makes one of this project of it"
            if project
            else "a backbone's weights go to --weights of training"
        )
        raise ValueError(f"{weights.source} is no detector of this project (it lacks the entry {KEY!r}): {advice}")
    return metadata


def load_weights(model: FasterRCNN, source: str | Path | Weights) -> None:
    """Load a whole detector's weights into ``model``, in detectron2's, torchvision's or this project's layout. Every tensor
    must be there.

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
    check_recipes(model)
    load_state(model, detector_state(weights), weights.source)


def recipe_implied(weights: Weights) -> str | None:
    """Return the recipe that a file states, a detector's or a network's; None where it states none."""
    metadata = read_metadata(weights)
    if metadata is None:
        return weights.recipe
    # another project's network, or a module, brings its own
    return str(metadata.tree["model"]["recipe"]) if metadata.backbone["source"] == "resdet" else None


def detector_state(weights: Weights) -> dict[str, Tensor]:
    """Return a file's tensors under a detector's names; of a training checkpoint the averaged ones, where it has them. Parts
    of torchvision's detectors that this project has no form of are left out, which is said."""
    if weights.layout == "detectron2":
        return from_detectron2(weights.state)
    if is_torchvision_detector(weights.state):
        tensors, left_out = from_torchvision(weights.state)
        if left_out:
            parts = sorted({".".join(name.split(".")[:2]) for name in left_out})
            _LOG.warning(
                "%s: %d tensors of %s are left out, which have no counterpart in this project's detectors",
                weights.source,
                len(left_out),
                ", ".join(parts),
            )
        return tensors
    # the head's name before there were heads of other kinds
    return {name.replace("roi_head.conv5.", "roi_head.head.", 1): tensor for name, tensor in weights.state.items()}


def local_file(weights: str | Path) -> Path:
    """Return the file of a weights argument: a path, or a name such as torchvision://resnet50, which is fetched.

    Raises:
        ConnectionError, ValueError: the name is unknown, or cannot be fetched.
    """
    return fetch(str(weights)) if is_name(str(weights)) else Path(weights)


def backbone_parts(model: FasterRCNN) -> list[nn.Module]:
    """Return a detector's modules that come from the backbone, as :func:`network_parts`."""
    return network_parts(model.trunk, model.roi_head.head)


def network_parts(trunk: nn.Module, head: nn.Module | None) -> list[nn.Module]:
    """Return the trunk, without a pyramid's layers, and the head where it is conv5_x."""
    body = trunk.body if isinstance(trunk, PyramidTrunk) else trunk
    return [body, head] if isinstance(head, Conv5 | TimmConv5) else [body]


def check_recipes(model: FasterRCNN) -> None:
    """Raise ValueError where a part of the network strides or pools otherwise than the model's recipe says."""
    for part in backbone_parts(model):
        check_recipe(part, model.recipe)


def check_state(metadata: Metadata, state: dict[str, Tensor], where: str) -> None:
    """Raise ValueError, which lists what differs, unless the tensors are those of the detector described."""
    with torch.device("meta"):
        model = build_model(metadata.config(where).model, len(metadata.classes.names))
    check_tensors(model, state, where)


def load_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load tensors into a model that has exactly these."""
    state = {k: v for k, v in state.items() if not k.endswith(_COUNTER)}
    check_tensors(model, state, where)
    model.load_state_dict(state, strict=False)


def check_tensors(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError unless ``state`` has the tensors of ``model``, all of them and no others; lists what differs."""
    state = {k: v for k, v in state.items() if not k.endswith(_COUNTER)}
    expected = {k: v for k, v in model.state_dict().items() if not k.endswith(_COUNTER)}
    faults = [f"missing {k}" for k in expected if k not in state] + [f"unknown {k}" for k in state if k not in expected]
    faults += [
        f"{k} has {list(state[k].shape)}, wanted {list(expected[k].shape)}"
        for k in expected
        if k in state and expected[k].shape != state[k].shape
    ]
    if faults:
        raise ValueError(
            f"{where} does not hold this detector's weights ({len(faults)} differences): {'; '.join(faults[:5])}"
        )
