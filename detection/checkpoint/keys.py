"""Key mapping between ResDet's, detectron2's and torchvision's detectors; backbone keys are mapped by backbone/layouts.py.

Besides names one thing differs from detectron2: the background is its class layer's last row, and the first of ResDet's.
Both box layers have four rows per class and none for the background; torchvision's has four for it too.
"""

import re
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


# torchvision's, whose FPN and RPN had other names before its version 0.13
_TORCHVISION = {
    "trunk.body.": "backbone.body.",
    "rpn.conv.": "rpn.head.conv.0.0.",
    "rpn.objectness.": "rpn.head.cls_logits.",
    "rpn.deltas.": "rpn.head.bbox_pred.",
    "roi_head.head.fc1.": "roi_heads.box_head.fc6.",
    "roi_head.head.fc2.": "roi_heads.box_head.fc7.",
    "roi_head.classes.": "roi_heads.box_predictor.cls_score.",
    "roi_head.deltas.": "roi_heads.box_predictor.bbox_pred.",
}
_TORCHVISION |= {f"trunk.fpn.lateral.{i}.": f"backbone.fpn.inner_blocks.{i}.0." for i in range(4)}
_TORCHVISION |= {f"trunk.fpn.output.{i}.": f"backbone.fpn.layer_blocks.{i}.0." for i in range(4)}
_OLD_NAMES = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"^rpn\.head\.conv\.(weight|bias)$"), r"rpn.head.conv.0.0.\1"),
)
# what a detector of this form has besides: Mask and Keypoint R-CNN's branches, which change no boxes
_TORCHVISION_BRANCHES = ("roi_heads.mask_", "roi_heads.keypoint_")
# what stands in the layers' places in torchvision's second version, which has no counterpart here: another convolution in
# the RPN, four convolutions and one layer as the head
_OTHER_RPN, _OTHER_HEAD = "rpn.head.conv.1.", "roi_heads.box_head."
_EPS = 1e-5  # of torchvision's norms


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


def from_torchvision(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename a torchvision detector's tensors to ResDet's keys.

    Norms of a pyramid, which ResDet's has none of, are folded into the convolutions before them, as in evaluation.

    Returns:
        The tensors, and the names of those left out: of branches for masks and keypoints, and of an RPN or a head whose form
        ResDet does not have, with everything behind it.
    """
    named = {}
    for name, tensor in tensors.items():
        for pattern, replacement in _OLD_NAMES:
            name = pattern.sub(replacement, name)
        named[name] = tensor
    named = _fold_pyramid_norms({k: v for k, v in named.items() if not k.endswith("num_batches_tracked")})
    left_out = tuple(name for name in named if name.startswith(_left_out(named)))
    renamed = {}
    for name, tensor in named.items():
        if name in left_out:
            continue
        prefix = next((key for key, theirs in _TORCHVISION.items() if name.startswith(theirs)), None)
        key = name if prefix is None else prefix + name.removeprefix(_TORCHVISION[prefix])
        renamed[key] = tensor[4:] if key.startswith("roi_head.deltas.") else tensor
    return renamed, left_out


def _left_out(names: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the prefixes of the parts that ResDet has no form of."""
    prefixes = [*_TORCHVISION_BRANCHES]
    if any(name.startswith(_OTHER_RPN) for name in names):
        prefixes.append("rpn.")
    if not any(name.startswith(f"{_OTHER_HEAD}fc6.") for name in names):
        prefixes += [_OTHER_HEAD, "roi_heads.box_predictor."]
    return tuple(prefixes)


def _fold_pyramid_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    folded = dict(tensors)
    for name in tensors:
        if name.startswith("backbone.fpn.") and name.endswith(".1.running_var"):
            norm = name.removesuffix("running_var")
            conv = norm.removesuffix("1.") + "0."
            weight, bias, mean, variance = (
                folded.pop(norm + kind) for kind in ("weight", "bias", "running_mean", "running_var")
            )
            scale = weight * (variance + _EPS).rsqrt()
            folded[conv + "weight"] = folded[conv + "weight"] * scale[:, None, None, None]
            folded[conv + "bias"] = bias - mean * scale
    return folded


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
