"""Convert key names of state dicts between torchvision, detectron2 and Caffe2; tensors are not touched.

This package uses torchvision's names, which timm's ResNets have too; the CIFAR networks of kuangliu and akamaster call a
block's ``downsample`` ``shortcut`` and ``fc`` ``linear``.
"""

import re
from collections.abc import Collection, Iterable
from typing import Literal

Layout = Literal["torchvision", "detectron2", "caffe2"]
# prefixes of the network in detectron2's detectors: conv5_x of C4 is in the head
_DETECTRON2_PREFIXES = ("backbone.bottom_up.", "backbone.", "roi_heads.")
_DETECTRON2 = re.compile(r"res([2-5])\.(\d+)\.(?:(conv[123])|shortcut)\.(norm\.)?(\w+)")
_DETECTRON2_STEM = re.compile(r"stem\.conv1\.(norm\.)?(\w+)")
# identifies the layout; "linear.weight" alone would be ambiguous
_DETECTRON2_MARKER = re.compile(
    r"^(?:module\.)?(?:backbone\.(?:bottom_up\.)?|roi_heads\.)?(?:stem\.conv1|res[2-5]\.\d+)\."
)
_TORCHVISION = re.compile(r"layer([1-4])\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)")
# the network in torchvision's detectors
_TORCHVISION_PREFIX = "backbone.body."
_CIFAR_SHORTCUT = re.compile(r"(layer[1-4]\.\d+\.)shortcut(\.[01]\.\w+)")
_CAFFE2 = re.compile(r"res(\d)_(\d+)_(?:branch1|branch2([abc]))(_bn)?_([wbs])")
_CAFFE2_STEM = re.compile(r"(?:res_)?(conv1|conv1_bn|fc1000)_([wbs])")
_CAFFE2_MODULES = {"conv1": "conv1", "conv1_bn": "bn1", "fc1000": "fc"}
_CAFFE2_KINDS = {"w": "weight", "s": "weight", "b": "bias"}


def layout_of(names: Iterable[str]) -> Layout:
    """Return the layout of key names; torchvision's where none of the others matches."""
    for name in names:
        if name == "conv1_w" or name.startswith(("res2_", "res_conv1")):
            return "caffe2"
        if _DETECTRON2_MARKER.search(name):
            return "detectron2"
    return "torchvision"


def to_torchvision(name: str, layout: Layout) -> str | None:
    """Return torchvision's name of a key of a layout; None for keys that are not of a residual network."""
    if layout == "detectron2":
        return _from_detectron2(name)
    if layout == "caffe2":
        return _from_caffe2(name)
    name = name.removeprefix(_TORCHVISION_PREFIX)
    if name in ("linear.weight", "linear.bias"):
        return f"fc.{name.removeprefix('linear.')}"
    return _CIFAR_SHORTCUT.sub(r"\1downsample\2", name)


def is_torchvision_detector(names: Collection[str]) -> bool:
    """Return whether the names are those of a detector of torchvision's with an RPN, and not of a network alone."""
    return f"{_TORCHVISION_PREFIX}conv1.weight" in names and any(name.startswith("rpn.head.") for name in names)


def to_detectron2(name: str) -> str | None:
    """Return detectron2's name of a key of torchvision's; None where it has none."""
    head, _, rest = name.partition(".")
    if head == "conv1":
        return f"stem.conv1.{rest}"
    if head == "bn1":
        return f"stem.conv1.norm.{rest}"
    if head == "fc":
        return f"linear.{rest}"
    match = _TORCHVISION.fullmatch(name)
    if match is None:
        return None
    stage, block, kind, number, shortcut, tensor = match.groups()
    module = f"conv{number}" if kind else "shortcut"
    norm = "norm." if kind == "bn" or shortcut == "1" else ""
    return f"res{int(stage) + 1}.{block}.{module}.{norm}{tensor}"


def _from_detectron2(name: str) -> str | None:
    for prefix in _DETECTRON2_PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    if match := _DETECTRON2_STEM.fullmatch(name):
        return f"{'bn1' if match[1] else 'conv1'}.{match[2]}"
    if name in ("linear.weight", "linear.bias"):
        return f"fc.{name.removeprefix('linear.')}"
    match = _DETECTRON2.fullmatch(name)
    if match is None:
        return None
    stage, block, conv, norm, tensor = match.groups()
    if conv is None:
        return f"layer{int(stage) - 1}.{block}.downsample.{'1' if norm else '0'}.{tensor}"
    return f"layer{int(stage) - 1}.{block}.{conv.replace('conv', 'bn') if norm else conv}.{tensor}"


def _from_caffe2(name: str) -> str | None:
    if stem := _CAFFE2_STEM.fullmatch(name):
        if stem[1] == "conv1" and stem[2] == "b":
            return None  # a zero bias before the norm, only in R-50.pkl
        return f"{_CAFFE2_MODULES[stem[1]]}.{_CAFFE2_KINDS[stem[2]]}"
    match = _CAFFE2.fullmatch(name)
    if match is None:
        return None  # momentum and other training state
    stage, block, letter, norm, kind = match.groups()
    if letter is None:
        module = "downsample.1" if norm else "downsample.0"
    else:
        module = f"{'bn' if norm else 'conv'}{'abc'.index(letter) + 1}"
    return f"layer{int(stage) - 1}.{block}.{module}.{_CAFFE2_KINDS[kind]}"
