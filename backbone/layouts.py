"""Names of a residual network's tensors in other projects' files. Names alone: this touches no tensor.

torchvision's names are the project's own. timm's ResNets have them too.
"""

import re
from collections.abc import Iterable
from typing import Literal

Layout = Literal["torchvision", "detectron2", "caffe2"]
# where a detector of detectron2 keeps its network: the C4's conv5_x is in its head
_DETECTRON2_PLACES = ("backbone.bottom_up.", "backbone.", "roi_heads.")
_DETECTRON2 = re.compile(r"res([2-5])\.(\d+)\.(?:(conv[123])|shortcut)\.(norm\.)?(\w+)")
_DETECTRON2_STEM = re.compile(r"stem\.conv1\.(norm\.)?(\w+)")
# what tells it from others; "linear.weight" alone would not
_DETECTRON2_SIGN = re.compile(
    r"^(?:module\.)?(?:backbone\.(?:bottom_up\.)?|roi_heads\.)?(?:stem\.conv1|res[2-5]\.\d+)\."
)
_TORCHVISION = re.compile(r"layer([1-4])\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))\.(\w+)")
_CAFFE2 = re.compile(r"res(\d)_(\d+)_(?:branch1|branch2([abc]))(_bn)?_([wbs])")
_CAFFE2_STEM = re.compile(r"(?:res_)?(conv1|conv1_bn|fc1000)_([wbs])")
_CAFFE2_MODULES = {"conv1": "conv1", "conv1_bn": "bn1", "fc1000": "fc"}
_CAFFE2_KINDS = {"w": "weight", "s": "weight", "b": "bias"}


def layout_of(names: Iterable[str]) -> Layout:
    """Whose names these are; torchvision's where nothing says otherwise."""
    for name in names:
        if name == "conv1_w" or name.startswith(("res2_", "res_conv1")):
            return "caffe2"
        if _DETECTRON2_SIGN.search(name):
            return "detectron2"
    return "torchvision"


def to_torchvision(name: str, layout: Layout) -> str | None:
    """torchvision's name for a tensor of a layout; None for what is no part of a residual network."""
    if layout == "detectron2":
        return _from_detectron2(name)
    if layout == "caffe2":
        return _from_caffe2(name)
    return name


def to_detectron2(name: str) -> str | None:
    """detectron2's name for a tensor of torchvision's; None where its networks have none."""
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
    stage, block, kind, number, shortcut, what = match.groups()
    place = f"conv{number}" if kind else "shortcut"
    norm = "norm." if kind == "bn" or shortcut == "1" else ""
    return f"res{int(stage) + 1}.{block}.{place}.{norm}{what}"


def _from_detectron2(name: str) -> str | None:
    for place in _DETECTRON2_PLACES:
        if name.startswith(place):
            name = name.removeprefix(place)
            break
    if match := _DETECTRON2_STEM.fullmatch(name):
        return f"{'bn1' if match[1] else 'conv1'}.{match[2]}"
    if name in ("linear.weight", "linear.bias"):
        return f"fc.{name.removeprefix('linear.')}"
    match = _DETECTRON2.fullmatch(name)
    if match is None:
        return None
    stage, block, conv, norm, what = match.groups()
    if conv is None:
        return f"layer{int(stage) - 1}.{block}.downsample.{'1' if norm else '0'}.{what}"
    return f"layer{int(stage) - 1}.{block}.{conv.replace('conv', 'bn') if norm else conv}.{what}"


def _from_caffe2(name: str) -> str | None:
    if stem := _CAFFE2_STEM.fullmatch(name):
        if stem[1] == "conv1" and stem[2] == "b":
            return None  # a bias of zeros in front of the norm, present in R-50.pkl alone
        return f"{_CAFFE2_MODULES[stem[1]]}.{_CAFFE2_KINDS[stem[2]]}"
    match = _CAFFE2.fullmatch(name)
    if match is None:
        return None  # momenta and other traces of training
    stage, block, letter, norm, kind = match.groups()
    if letter is None:
        module = "downsample.1" if norm else "downsample.0"
    else:
        module = f"{'bn' if norm else 'conv'}{'abc'.index(letter) + 1}"
    return f"layer{int(stage) - 1}.{block}.{module}.{_CAFFE2_KINDS[kind]}"
