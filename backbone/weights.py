"""Weights into a network: read a file without running it, copy, and report. What tensors are called elsewhere is in
layouts.py.

Reads torch.save files (tensors only), safetensors, and the pickles of Caffe2/detectron2's ImageNet models through an
unpickler that knows arrays and plain containers alone.
"""

import io
import json
import pickle
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from backbone.blocks import Bottleneck
from backbone.layouts import Layout, layout_of, to_torchvision
from backbone.norm import FrozenBatchNorm2d
from backbone.recipe import RECIPES, Recipe

# how files of torch.save began before it wrote zip archives: a pickled magic number
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STAGES = {
    "conv1": "conv1",
    "bn1": "conv1",
    "layer1": "conv2_x",
    "layer2": "conv3_x",
    "layer3": "conv4_x",
    "layer4": "conv5_x",
}


@dataclass(frozen=True)
class LoadReport:
    """What a file of weights did to a network. Names are the network's (torchvision's).

    Attributes:
        loaded: tensors copied.
        missing: tensors of the network that the file lacks; they keep their values.
        unused: tensors of the file that the network lacks.
        mismatched: name -> (shape in the network, shape in the file); not copied.
        recipe: how the weights want pictures and network.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    recipe: Recipe

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded (recipe {self.recipe.name})"
        for title, names in (
            ("missing", self.missing),
            ("unused", self.unused),
            ("other shape", tuple(self.mismatched)),
        ):
            if names:
                text += f"; {len(names)} {title}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
        return text


@dataclass(frozen=True)
class Weights:
    """What a file of weights holds.

    Attributes:
        tensors: under torchvision's names, where they have one, else under the file's own.
        layout: whose names the file has.
        recipe: name of the recipe that the file implies, if any.
        content: all of it: what else the file says of itself.
        source: the file, for messages.
    """

    tensors: dict[str, Tensor]
    layout: Layout
    recipe: str | None
    content: Any
    source: str


def load_weights(
    net: nn.Module | Sequence[nn.Module], source: str | Path | Weights, recipe: str | None = None
) -> LoadReport:
    """Copies a file's weights into a network.

    Args:
        net: a ResNet, or the parts of one that together keep its names (what ``split_c4`` returns).
        source: .pth, .safetensors, or a Caffe2/detectron2 .pkl of an ImageNet model; or what
            :func:`read_weights` made of it.
        recipe: name of the recipe that the weights were trained with; None takes the file's own (its "recipe" entry, or
            detectron2's for its pickles), else "torchvision". Key names do not tell: MSRA's weights also come under
            torchvision's keys.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not readable as weights, no tensor fits, or the network's stride or pooling contradict
            the recipe.
    """
    parts = [net] if isinstance(net, nn.Module) else list(net)
    weights = source if isinstance(source, Weights) else read_weights(source)
    own = weights.recipe
    if recipe and own and recipe != own:
        raise ValueError(
            f"{weights.source} holds weights of recipe {own!r}, and recipe {recipe!r} was asked for; leave it out or say "
            f"{own!r} (model.recipe={own})"
        )
    name = recipe or own or "torchvision"
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: wanted one of {', '.join(RECIPES)}")
    for part in parts:
        check_recipe(part, RECIPES[name])
    target: dict[str, Tensor] = {}
    for part in parts:
        target |= part.state_dict()
    # a running count, which no frozen norm has and many files lack
    target = {k: v for k, v in target.items() if not k.endswith("num_batches_tracked")}
    tensors = {k: v for k, v in weights.tensors.items() if not k.endswith("num_batches_tracked")}
    report = _copy(target, tensors, RECIPES[name])
    if not report.loaded:
        raise ValueError(
            f"{weights.source}: no tensor fits this network. It wants names such as {', '.join(list(target)[:3])}; "
            f"the file has {', '.join(list(tensors)[:3]) or 'no tensors'}"
        )
    return report


def _copy(target: Mapping[str, Tensor], source: Mapping[str, Tensor], recipe: Recipe) -> LoadReport:
    common = [k for k in target if k in source]
    mismatched = {
        k: (tuple(target[k].shape), tuple(source[k].shape)) for k in common if target[k].shape != source[k].shape
    }
    loaded = tuple(k for k in common if k not in mismatched)
    with torch.no_grad():
        for key in loaded:
            target[key].copy_(source[key])
    return LoadReport(
        loaded,
        missing=tuple(k for k in target if k not in source),
        unused=tuple(k for k in source if k not in target),
        mismatched=mismatched,
        recipe=recipe,
    )


def check_recipe(net: nn.Module, recipe: Recipe) -> None:
    """Refuses a network that strides or pools otherwise than its weights were trained, which loses accuracy in silence.

    Raises:
        ValueError: says what the recipe wants, what the network has, and how to mend it.
    """
    has_bottlenecks = any(isinstance(m, Bottleneck) for m in net.modules())
    grouped = any(isinstance(m, Bottleneck) and m.conv2.groups > 1 for m in net.modules())
    if grouped and recipe.name in ("msra", "detectron2"):
        raise ValueError(
            f"recipe {recipe.name!r} is that of plain bottlenecks; grouped ones (ResNeXt) were trained on other pictures "
            "and with the stride in the 3x3, for which there is no recipe here"
        )
    wanted: dict[str, str] = {"stride_in": recipe.stride_in} if has_bottlenecks else {}
    if getattr(net, "stem_pool", None) != "none":  # without a pooling there is no rule of it to break
        wanted["stem_pool"] = recipe.stem_pool
    for key, value in wanted.items():
        have = getattr(net, key, value)
        if have != value:
            raise ValueError(
                f"weights of recipe {recipe.name!r} want a network with {key}={value!r}, this one has {key}={have!r}; "
                f"build it with {key}={value!r}, or name the weights' true recipe ({', '.join(RECIPES)})"
            )


def require_loaded(parts: nn.Module | Sequence[nn.Module], loaded: Collection[str]) -> None:
    """Refuses a network whose frozen norms stand on weights that were never loaded.

    Args:
        parts: a ResNet or the parts of one.
        loaded: names that a file filled (``LoadReport.loaded``).

    Raises:
        ValueError: names the stages; frozen statistics that were never measured normalise nothing.
    """
    parts = [parts] if isinstance(parts, nn.Module) else list(parts)
    bad: dict[str, int] = {}
    for part in parts:
        frozen = {_stage(name) for name, m in part.named_modules() if isinstance(m, FrozenBatchNorm2d)}
        frozen |= {_stage(name) for name, p in part.named_parameters() if not p.requires_grad}
        for key in part.state_dict():
            if key not in loaded and _stage(key) in frozen:
                bad[_stage(key)] = bad.get(_stage(key), 0) + 1
    if bad:
        listed = ", ".join(f"{stage} ({count} tensors)" for stage, count in sorted(bad.items()))
        raise ValueError(
            f"frozen norms over random weights in {listed}: no weights were loaded there, and what is frozen cannot learn "
            "them. Give weights that hold these parts (--weights FILE), or a norm that learns "
            "(model.norm=bn; for conv5_x alone model.conv5_norm=bn; model.freeze_at=0 if the stage is frozen)"
        )


def require_same_network(report: LoadReport) -> None:
    """Refuses weights of which a part of the network is left over: those of a deeper one fill a shallower one in silence.

    Raises:
        ValueError: names the tensors.
    """
    over = [name for name in report.unused if re.match(r"(conv1|bn1|layer\d+)\.", name)]
    if over:
        raise ValueError(
            f"the weights are of another network, with {len(over)} more tensors ({', '.join(over[:4])}"
            f"{', …' if len(over) > 4 else ''}); build the one that they were trained with"
        )


def require_complete(report: LoadReport) -> None:
    """Refuses a network of which a part was not loaded, and weights of which a part is left over.

    Raises:
        ValueError: names tensors that are missing, of another shape, or of a deeper network.
    """
    require_same_network(report)
    lacking = (*report.missing, *report.mismatched)
    if lacking:
        raise ValueError(
            f"the weights do not fill this network: {len(lacking)} tensors are missing or of another shape "
            f"({', '.join(lacking[:4])}{', …' if len(lacking) > 4 else ''}); is it the network that they were trained with?"
        )


def _stage(key: str) -> str:
    return _STAGES.get(key.partition(".")[0], "")


# ---- reading ----------------------------------------------------------------------------------------------------


def read_weights(path: str | Path) -> Weights:
    """Reads a file of weights; nothing in it is run.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    content = read_file(path)
    state = _unwrap(content, path)
    try:
        tensors = {str(k): torch.as_tensor(v) for k, v in state.items() if isinstance(v, (Tensor, np.ndarray))}
    except (TypeError, ValueError) as error:  # an array of words or objects
        raise ValueError(f"{path} holds an array that is no tensor: {error}") from error
    if tensors and all(name.startswith("module.") for name in tensors):  # saved from within DataParallel
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    layout = layout_of(tensors)
    names = {name: to_torchvision(name, layout) for name in tensors}
    renamed = {names[name] or name: tensor for name, tensor in tensors.items()}
    if layout == "caffe2":  # what has no name is a trace of training
        renamed = _caffe2_norms({ours: tensors[name] for name, ours in names.items() if ours is not None})
    return Weights(renamed, layout, _implied_recipe(content, layout), content, str(path))


def read_file(path: Path) -> Any:
    """The content of a weights file: tensors, arrays and plain containers; nothing in it is run.

    Raises:
        ValueError: it is none of the known formats, truncated, or holds something else.
    """
    data = path.read_bytes()
    try:
        if data[:4] == b"PK\x03\x04" or data.startswith(_OLD_TORCH):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if len(data) > 9 and data[8:9] == b"{":
            # what the file says of itself lies beside the tensors in its header
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            return {**header.get("__metadata__", {}), "model": load_safetensors(data)}
        return _with_arrays(_ArrayUnpickler(io.BytesIO(data), encoding="latin1").load())
    except Exception as error:  # whatever a damaged file makes the readers raise, the user gets one message
        raise ValueError(
            f"{path} cannot be read as weights (wanted a torch.save file of tensors, safetensors, or a Caffe2/detectron2 "
            f"pickle of arrays; {len(data)} bytes): {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


class _DType:
    """A pickled dtype. numpy's own would take any state from a file, flags that make it follow pointers among them."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?(f[248]|[iu][1248]|b1)", code):
            raise pickle.UnpicklingError(f"arrays of {code!r} are no weights")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """A pickled array: bytes, which are held against dtype and shape before numpy sees them."""

    def __init__(self, *_: Any) -> None:
        self.array: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _array_of_bytes(data, dtype, shape, "F" if fortran else "C").array


def _array_of_bytes(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    if not isinstance(dtype, _DType) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise pickle.UnpicklingError("an array's dtype or shape is damaged")
    if isinstance(data, str):
        data = data.encode("latin1")
    found = _Array()
    array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")
    found.array = array.astype(dtype.dtype.newbyteorder("="))  # a copy of its own, in this machine's order
    return found


def _scalar(dtype: Any, data: Any) -> Any:
    return _array_of_bytes(data, dtype, (), "C").array[()]


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays and plain containers; every other global is refused before it is looked up."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): dict,
        ("numpy", "dtype"): _DType,
        ("numpy", "ndarray"): None,  # an argument of _reconstruct and nothing else: it cannot be called
        ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),
    }
    for _core in ("numpy.core", "numpy._core"):
        _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Array
        _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
        _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _array_of_bytes

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file") from None


def _with_arrays(content: Any, depth: int = 3) -> Any:
    """Dictionaries with numpy's arrays for those that the unpickler built."""
    if isinstance(content, _Array):
        return content.array
    if isinstance(content, dict) and depth:
        return {key: _with_arrays(value, depth - 1) for key, value in content.items()}
    return content


def _unwrap(content: Any, path: Path) -> dict[str, Any]:
    """The state dict inside the usual wrappers."""
    for key in ("model", "state_dict", "blobs"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: wanted a dictionary of tensors, the file holds a {type(content).__name__}")
    return content


def _caffe2_norms(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Caffe2's norms are affine alone: mean 0 and, after eps, variance 1."""
    out = dict(tensors)
    for name, tensor in tensors.items():
        if re.search(r"(?:bn\d|downsample\.1)\.weight$", name):
            norm = name.removesuffix("weight")
            out[norm + "running_mean"] = torch.zeros_like(tensor)
            out[norm + "running_var"] = torch.full_like(tensor, 1.0 - 1e-5)
    return out


def _implied_recipe(content: Any, layout: Layout) -> str | None:
    """The recipe that a file's own entries or its layout tell."""
    own = content.get("recipe") if isinstance(content, dict) else None
    if isinstance(own, str):
        return own
    if layout == "torchvision":
        return None
    # torchvision's weights also come in detectron2's layout, by its converter, which names them
    if content.get("__author__") == "torchvision":
        return "torchvision"
    state = content.get("model", content)
    mean = state.get("pixel_mean") if isinstance(state, dict) else None
    wanted = RECIPES["detectron2"].mean
    if mean is not None and not np.allclose(np.asarray(mean).ravel(), wanted, atol=0.01):
        raise ValueError(
            f"the file says that its pictures have the mean {np.asarray(mean).ravel().tolist()}, and detectron2's recipe "
            f"has {wanted}: there is no recipe here for these weights"
        )
    return "detectron2"
