"""Key mapping between ResDet's and detectron2's detectors; backbone keys are mapped by backbone/layouts.py.

Besides names one thing differs: the background is the last row of detectron2's class layer, and the first of ResDet's.
Both box layers have four rows per class and none for the background.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from backbone.layouts import to_detectron2 as network_to_detectron2
from backbone.layouts import to_torchvision

_PREFIXES = {
    "rpn.conv.": "proposal_generator.rpn_head.conv.",
    "rpn.objectness.": "proposal_generator.rpn_head.objectness_logits.",
    "rpn.deltas.": "proposal_generator.rpn_head.anchor_deltas.",
    "roi_head.head.fc1.": "roi_heads.box_head.fc1.",
    "roi_head.head.fc2.": "roi_heads.box_head.fc2.",
    "roi_head.classes.": "roi_heads.box_predictor.cls_score.",
    "roi_head.deltas.": "roi_heads.box_predictor.bbox_pred.",
}
_PREFIXES |= {f"trunk.fpn.lateral.{i}.": f"backbone.fpn_lateral{i + 2}." for i in range(4)}
_PREFIXES |= {f"trunk.fpn.output.{i}.": f"backbone.fpn_output{i + 2}." for i in range(4)}
# backbone modules in ResDet -> detectron2; longer prefixes first
_BACKBONES = {"trunk.body.": "backbone.bottom_up.", "trunk.": "backbone.", "roi_head.head.": "roi_heads."}
# detectron2's ResNet convolutions have no bias
_BIASES = ("conv1.bias", "conv2.bias", "conv3.bias", "shortcut.bias")
# buffers of older files that are computed from the configuration
_IGNORED = ("proposal_generator.anchor_generator.", "pixel_mean", "pixel_std")


def is_detectron2(names: Mapping[str, object]) -> bool:
    """Return whether tensor names are those of a detectron2 detector, and not of a backbone alone."""
    return any(name.startswith("proposal_generator.") for name in names)


def network_name(name: str) -> str | None:
    """Return the ResNet key of a tensor of a ResNet or of a detector; None for tensors outside the backbone."""
    for prefix in _BACKBONES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return name if network_to_detectron2(name) is not None else None


def from_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a detectron2 detector's tensors to ResDet's keys; unmapped ones keep their names."""
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith(_IGNORED):
            continue
        key = _from_detectron2_key(name)
        renamed[key] = _roll_background(key, tensor, 1)
    return renamed


def to_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a detector's tensors to detectron2's keys, the inverse of :func:`from_detectron2`.

    Raises:
        ValueError: names the tensors without a counterpart in detectron2.
    """
    renamed: dict[str, Tensor] = {}
    unmapped = []
    for name, tensor in tensors.items():
        key = _to_detectron2_key(name)
        if key is None:
            unmapped.append(name)
        else:
            renamed[key] = _roll_background(name, tensor, -1)
    if unmapped:
        raise ValueError(
            f"detectron2's layout has no counterpart for {len(unmapped)} tensors: {', '.join(unmapped[:5])}"
            f"{', …' if len(unmapped) > 5 else ''}"
        )
    return renamed


def _from_detectron2_key(name: str) -> str:
    for resdet, detectron2 in _PREFIXES.items():
        if name.startswith(detectron2):
            return resdet + name.removeprefix(detectron2)
    for resdet, detectron2 in _BACKBONES.items():
        if name.startswith(detectron2):
            key = to_torchvision(name, "detectron2")
            return name if key is None else resdet + key
    return name


def _to_detectron2_key(name: str) -> str | None:
    for resdet, detectron2 in _PREFIXES.items():
        if name.startswith(resdet):
            return detectron2 + name.removeprefix(resdet)
    for resdet, detectron2 in _BACKBONES.items():
        if name.startswith(resdet):
            key = network_to_detectron2(name.removeprefix(resdet))
            return None if key is None or key.endswith(_BIASES) else detectron2 + key
    return None


def _roll_background(name: str, tensor: Tensor, shift: int) -> Tensor:
    """Move the background's row of the class layer between first and last."""
    return torch.roll(tensor, shift, dims=0) if name.startswith("roi_head.classes.") else tensor
