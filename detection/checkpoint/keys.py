"""detectron2's names for a whole detector's tensors, and back; the network's part is backbone/layouts.py.

Theirs differ in one thing besides names: the background is the last row of their class layer, the first of ours. Both box
layers have four rows for each class and none for the background.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from backbone.layouts import to_detectron2 as network_to_detectron2
from backbone.layouts import to_torchvision

_PARTS = {
    "rpn.conv.": "proposal_generator.rpn_head.conv.",
    "rpn.objectness.": "proposal_generator.rpn_head.objectness_logits.",
    "rpn.deltas.": "proposal_generator.rpn_head.anchor_deltas.",
    "roi_head.head.fc1.": "roi_heads.box_head.fc1.",
    "roi_head.head.fc2.": "roi_heads.box_head.fc2.",
    "roi_head.classes.": "roi_heads.box_predictor.cls_score.",
    "roi_head.deltas.": "roi_heads.box_predictor.bbox_pred.",
}
_PARTS |= {f"trunk.fpn.lateral.{i}.": f"backbone.fpn_lateral{i + 2}." for i in range(4)}
_PARTS |= {f"trunk.fpn.output.{i}.": f"backbone.fpn_output{i + 2}." for i in range(4)}
# the network's modules in our names -> theirs; longer ones first
_NETWORKS = {"trunk.body.": "backbone.bottom_up.", "trunk.": "backbone.", "roi_head.head.": "roi_heads."}
# their convolutions have no bias beside a norm, and none without one
_BIASES = ("conv1.bias", "conv2.bias", "conv3.bias", "shortcut.bias")
# buffers of old files that follow from the configuration
_CONFIGURED = ("proposal_generator.anchor_generator.", "pixel_mean", "pixel_std")


def is_detectron2(names: Mapping[str, object]) -> bool:
    """Return whether these are the tensors of a detector of detectron2's, and not of a network alone."""
    return any(name.startswith("proposal_generator.") for name in names)


def network_name(name: str) -> str | None:
    """Return the residual network's name of a tensor, also where a detector holds it; None for other tensors."""
    for place in _NETWORKS:
        if name.startswith(place):
            name = name.removeprefix(place)
            break
    return name if network_to_detectron2(name) is not None else None


def from_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under the detector's names; those that it has no name for keep theirs."""
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(_CONFIGURED):
            continue
        ours = _ours(name)
        found[ours] = _roll(ours, tensor, 1)
    return found


def to_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the reverse of :func:`from_detectron2`.

    Raises:
        ValueError: names the tensors that detectron2's networks have no place for.
    """
    found, unmapped = {}, []
    for name, tensor in tensors.items():
        theirs = _theirs(name)
        if theirs is None:
            unmapped.append(name)
        else:
            found[theirs] = _roll(name, tensor, -1)
    if unmapped:
        raise ValueError(
            f"detectron2's layout has no place for {len(unmapped)} tensors: {', '.join(unmapped[:5])}"
            f"{', …' if len(unmapped) > 5 else ''}"
        )
    return found


def _ours(name: str) -> str:
    for ours, theirs in _PARTS.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    for ours, theirs in _NETWORKS.items():
        if name.startswith(theirs):
            inner = to_torchvision(name, "detectron2")
            return name if inner is None else ours + inner
    return name


def _theirs(name: str) -> str | None:
    for ours, theirs in _PARTS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    for ours, theirs in _NETWORKS.items():
        if name.startswith(ours):
            inner = network_to_detectron2(name.removeprefix(ours))
            return None if inner is None or inner.endswith(_BIASES) else theirs + inner
    return None


def _roll(name: str, tensor: Tensor, by: int) -> Tensor:
    """Move the background's row of the class layer between the front and the end."""
    return torch.roll(tensor, by, dims=0) if name.startswith("roi_head.classes.") else tensor
