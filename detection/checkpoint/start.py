"""The weights that training starts from: a backbone's, or a whole detector's for fine-tuning on other classes."""

import logging

import torch
from torch import Tensor

from backbone import RECIPES, LoadReport, require_loaded
from backbone import load_weights as load_backbone_weights
from backbone.adapters.foreign import SCHEME, is_foreign
from backbone.hub import is_name, recipe_of
from backbone.layouts import is_torchvision_detector
from backbone.weights import CONV1, Weights, adapt_input, read_weights, require_same_network
from detection.checkpoint.detector import (
    backbone_parts,
    check_recipes,
    check_tensors,
    detector_state,
    load_state,
    local_file,
    network_parts,
    recipe_implied,
)
from detection.checkpoint.keys import is_detectron2
from detection.checkpoint.label_maps import class_names
from detection.checkpoint.metadata import Classes, read_metadata
from detection.config import ModelConfig
from detection.modeling.architectures import take_apart
from detection.modeling.build import build_backbone
from detection.modeling.faster_rcnn import FasterRCNN

_LOG = logging.getLogger(__name__)
_CLASS_LAYER, _BOX_LAYER = "roi_head.classes.", "roi_head.deltas."


def start_weights(model: FasterRCNN, config: ModelConfig, classes: Classes) -> LoadReport | None:
    """Fill a new model with ``config.weights``: a backbone's, or a whole detector's for fine-tuning.

    A detector with other classes fills all but the class and box layers; classes that both know keep their rows by name.

    Returns:
        The report of a residual network's weights; None for others.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: the weights cannot be had or do not fit, or a frozen norm would stand
            on random weights.
    """
    parts = backbone_parts(model)
    foreign = is_foreign(config.backbone)
    if config.weights is None:
        if foreign:
            _LOG.warning("%s begins with random weights: --weights %s… has timm's", config.backbone, SCHEME)
        else:
            require_loaded(parts, ())
        return None
    if config.weights.startswith(SCHEME):
        if not foreign:
            raise ValueError(
                f"{config.weights} is for model.backbone={SCHEME}NAME, and the backbone is {config.backbone}"
            )
        _start_from_timm(model, config, config.weights)
        return None
    path = local_file(config.weights)
    weights = read_weights(path)
    implied = (recipe_of(config.weights) if is_name(config.weights) else None) or recipe_implied(weights)
    if implied is not None and not foreign and implied != config.recipe:
        raise ValueError(
            f"{config.weights} was trained with recipe {implied!r}, the configuration says {config.recipe!r}; "
            f"set model.recipe={implied}"
        )
    metadata = read_metadata(weights)
    if metadata is not None:
        _start_from_detector(model, weights, detector_state(weights), metadata.classes, classes)
        return None
    if is_detectron2(weights.tensors):
        _start_from_detector(model, weights, detector_state(weights), None, classes)
        return None
    if is_torchvision_detector(weights.state) and not foreign:
        if config.architecture == "fpn":
            _start_from_torchvision(model, config, weights, classes)
            return None
        _LOG.warning(
            "%s is a detector with a pyramid, and model.architecture is %s: its backbone alone is loaded",
            weights.source,
            config.architecture,
        )
    if foreign:
        _start_from_timm(model, config, str(path))
        return None
    report = load_backbone_weights(parts, weights, config.recipe)
    require_same_network(report)
    require_loaded(parts, report.loaded)
    _LOG.info("weights %s: %s", path, report)
    return report


def _start_from_timm(model: FasterRCNN, config: ModelConfig, source: str) -> None:
    """Copy the backbone that timm fills with ``source``, one of its names or a file, part by part."""
    filled = take_apart(build_backbone(config, pretrained=source), config.architecture, config.fpn_channels)
    parts = zip(backbone_parts(model), network_parts(filled.trunk, filled.head), strict=True)
    for part, filled_part in parts:
        state = filled_part.state_dict()
        check_tensors(part, state, source)
        part.load_state_dict(state)
    _LOG.info("weights %s: loaded into %s", source, config.backbone)


def _start_from_torchvision(model: FasterRCNN, config: ModelConfig, weights: Weights, classes: Classes) -> None:
    """Load torchvision's detector, or where its RPN or head are of another form its backbone and pyramid."""
    state, own = detector_state(weights), model.state_dict()
    anew = [part for part in ("rpn.", "roi_head.") if not any(name.startswith(part) for name in state)]
    if anew:
        _LOG.warning("%s: backbone and pyramid are loaded, %s begin anew", weights.source, " and ".join(anew))
        state |= {name: tensor for name, tensor in own.items() if name.startswith(tuple(anew))}
        _start_from_detector(model, weights, state, classes, classes)
        return
    settings = {
        "model.anchors.rounded=true": config.anchors.rounded,
        "model.roi.aligned=false": not config.roi.aligned,
        "model.roi.sampling_ratio=2": config.roi.sampling_ratio == 2,
    }
    others = [setting for setting, same in settings.items() if not same]
    if others:
        _LOG.warning("%s was trained with %s: the configuration has other values", weights.source, " ".join(others))
    count = len(state["roi_head.classes.bias"]) - 1
    coco = class_names("coco", count) if count == 90 else None
    _start_from_detector(model, weights, state, coco, classes)


def _start_from_detector(
    model: FasterRCNN, weights: Weights, state: dict[str, Tensor], theirs: Classes | None, ours: Classes
) -> None:
    """Load a whole detector; of its class and box layers the rows of the classes that both know. ``theirs`` is None where
    the file has no names: the layers are then taken if their shapes fit, or left out."""
    check_recipes(model)
    own = model.state_dict()
    if (conv1 := next((k for k in own if k.endswith(f".{CONV1}")), None)) in state and conv1 is not None:
        state |= {conv1: adapt_input(state[conv1], model.in_channels, RECIPES.get(model.recipe.name, model.recipe))}
    per_class = [k for k in state if k.startswith((_CLASS_LAYER, _BOX_LAYER)) and k in own]
    if theirs is None:
        if any(state[k].shape != own[k].shape for k in per_class):
            _LOG.warning(
                "%s has %d classes and the data %d: its class and box layers are left out, all else is loaded",
                weights.source,
                len(state.get(f"{_CLASS_LAYER}weight", ())) - 1,
                len(ours.names),
            )
            state |= {k: own[k] for k in per_class}
    elif theirs.names != ours.names:
        shared = [name for name in ours.names if name in theirs.names]
        new = [name for name in ours.names if name not in theirs.names]
        state |= {k: _rows(k, state[k], own[k], theirs.names, ours.names) for k in per_class}
        _LOG.warning(
            "%s has other classes than the data: rows of %s are kept; %s begin anew; all other layers are loaded",
            weights.source,
            ", ".join(shared) or "no class",
            ", ".join(new) or "none",
        )
    load_state(model, state, weights.source)


def _rows(key: str, old: Tensor, new: Tensor, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Tensor:
    """Return a class or box layer's new tensor with the old rows of shared classes: one row a class behind the background's
    in the class layer, four a class in the box layer."""
    if old.shape[1:] != new.shape[1:]:
        return old  # another head: the check of the tensors says so
    filled = new.clone()
    with torch.no_grad():
        if key.startswith(_CLASS_LAYER):
            filled[0] = old[0]
        for k, name in enumerate(ours):
            if name in theirs:
                j = theirs.index(name)
                if key.startswith(_CLASS_LAYER):
                    filled[k + 1] = old[j + 1]
                else:
                    filled[4 * k : 4 * k + 4] = old[4 * j : 4 * j + 4]
    return filled
