"""Load weights into a network: read a file without executing code from it, copy matching tensors, report the rest.

Reads torch.save files (tensors only), safetensors, and the pickles of Caffe2/detectron2's ImageNet models through an
unpickler restricted to arrays and plain containers. Key mappings between layouts are in layouts.py.
"""

import argparse
import io
import json
import logging
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
from backbone.layouts import Layout, is_torchvision_detector, layout_of, to_torchvision
from backbone.norm import FrozenBatchNorm2d
from backbone.recipe import RECIPES, Recipe
from backbone.shortcut_a import pad_behind, pads_both_sides
from backbone.wrappers import find_tensors

_LOG = logging.getLogger(__name__)

# first bytes of torch.save's format before it wrote zip archives: a pickled magic number
_LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_STAGES = {
    "conv1": "conv1",
    "bn1": "conv1",
    "layer1": "conv2_x",
    "layer2": "conv3_x",
    "layer3": "conv4_x",
    "layer4": "conv5_x",
}
CONV1 = "conv1.weight"


@dataclass(frozen=True)
class LoadReport:
    """The result of loading weights into a network. Names are the network's (torchvision's).

    Attributes:
        loaded: tensors copied.
        missing: tensors of the network that the file does not have; their values are unchanged.
        unused: tensors of the file that the network does not have.
        mismatched: name -> (shape in the network, shape in the file); not copied.
        recipe: the input normalisation and architecture variant that the weights expect.
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
            ("mismatched", tuple(self.mismatched)),
        ):
            if names:
                text += f"; {len(names)} {title}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"
        return text


@dataclass(frozen=True)
class Weights:
    """The content of a weights file.

    Attributes:
        tensors: under torchvision's key names where the key is mapped, else under the file's.
        layout: the key names that the file uses.
        recipe: name of the recipe that the file implies, if any.
        content: everything in the file, metadata included.
        source: the file's path, for messages.
        state: the tensors of the network or detector under its own project's names, without containers and prefixes of
            wrappers (:mod:`backbone.wrappers`).
    """

    tensors: dict[str, Tensor]
    layout: Layout
    recipe: str | None
    content: Any
    source: str
    state: dict[str, Tensor]


def load_weights(
    net: nn.Module | Sequence[nn.Module], source: str | Path | Weights, recipe: str | None = None
) -> LoadReport:
    """Copy a file's weights into a network.

    Args:
        net: a ResNet, or the submodules of one that together keep its key names (as returned by ``split_c4``).
        source: .pth, .safetensors, or a Caffe2/detectron2 .pkl of an ImageNet model; or the
            :class:`Weights` that :func:`read_weights` returns.
        recipe: name of the recipe that the weights were trained with; None uses the file's (its "recipe" entry, or
            detectron2's for its pickles), else "torchvision". Key names do not identify it: MSRA's weights are also
            published under torchvision's keys.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be read as weights, no tensor matches, or the network's stride or pooling contradict
            the recipe.
    """
    parts = [net] if isinstance(net, nn.Module) else list(net)
    weights = source if isinstance(source, Weights) else read_weights(source)
    file_recipe = weights.recipe
    if recipe and file_recipe and recipe != file_recipe:
        raise ValueError(
            f"{weights.source} contains weights of recipe {file_recipe!r}, but recipe {recipe!r} was requested; omit it or "
            f"set {file_recipe!r} (model.recipe={file_recipe})"
        )
    name = recipe or file_recipe or "torchvision"
    if name not in RECIPES:
        where = f"{weights.source}: " if name == file_recipe else ""
        raise ValueError(f"{where}unknown recipe {name!r}: expected one of {', '.join(RECIPES)}")
    for part in parts:
        check_recipe(part, RECIPES[name])
    target: dict[str, Tensor] = {}
    for part in parts:
        target |= part.state_dict()
    # batch counters, which FrozenBatchNorm2d does not have and many files do not contain
    target = {k: v for k, v in target.items() if not k.endswith("num_batches_tracked")}
    tensors = {k: v for k, v in weights.tensors.items() if not k.endswith("num_batches_tracked")}
    if CONV1 in target and CONV1 in tensors and target[CONV1].dim() == tensors[CONV1].dim() == 4:
        tensors[CONV1] = adapt_input(tensors[CONV1], target[CONV1].shape[1], RECIPES[name])
    report = _copy(target, tensors, RECIPES[name])
    if not report.loaded:
        raise ValueError(
            f"{weights.source}: no tensor matches this network. It expects keys such as {', '.join(list(target)[:3])}; "
            f"the file has {', '.join(list(tensors)[:3]) or 'no tensors'}"
        )
    return report


def adapt_input(weight: Tensor, channels: int, recipe: Recipe) -> Tensor:
    """Return the weight of a network's first convolution for images of another number of channels than three, as timm does:
    one channel gets the sum over R, G and B; more get them in turn, times 3 / channels, so that an output keeps its size.

    Args:
        weight: [O, 3, k, k]; of another number of channels it is returned as it is.
        channels: C; 3 changes nothing.
        recipe: the order of the three.

    Returns:
        [O, C, k, k], for channels in the order of their file (:meth:`Recipe.for_channels`).
    """
    if weight.shape[1] != 3 or channels == 3:
        return weight
    rgb = weight.float() if recipe.channels == "RGB" else weight.float().flip(1)
    if channels == 1:
        return rgb.sum(dim=1, keepdim=True)
    return rgb.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)


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
    """Raise for a network whose stride or pooling differs from that of its weights, which would silently lower accuracy.

    Raises:
        ValueError: says what the recipe expects, what the network has, and how to fix it.
    """
    has_bottlenecks = any(isinstance(m, Bottleneck) for m in net.modules())
    grouped = any(isinstance(m, Bottleneck) and m.conv2.groups > 1 for m in net.modules())
    if grouped and recipe.name in ("msra", "detectron2"):
        raise ValueError(
            f"recipe {recipe.name!r} is for bottlenecks with groups=1; grouped ones (ResNeXt) were trained with other input "
            "normalisation and with the stride in the 3x3, for which no recipe is defined"
        )
    expected: dict[str, str] = {"stride_in": recipe.stride_in} if has_bottlenecks else {}
    if getattr(net, "stem_pool", None) != "none":  # without pooling the recipe's pooling does not apply
        expected["stem_pool"] = recipe.stem_pool
    for key, value in expected.items():
        actual = getattr(net, key, value)
        if actual != value:
            raise ValueError(
                f"weights of recipe {recipe.name!r} expect a network with {key}={value!r}, this one has {key}={actual!r}; "
                f"build it with {key}={value!r}, or set the weights' actual recipe ({', '.join(RECIPES)})"
            )


def require_loaded(parts: nn.Module | Sequence[nn.Module], loaded: Collection[str]) -> None:
    """Raise for a network with frozen stages or frozen normalisation layers whose weights were not loaded.

    Args:
        parts: a ResNet or the submodules of one.
        loaded: names of the tensors that were loaded (``LoadReport.loaded``).

    Raises:
        ValueError: names the stages; frozen statistics at their initial values do not normalise.
    """
    parts = [parts] if isinstance(parts, nn.Module) else list(parts)
    unloaded: dict[str, int] = {}
    for part in parts:
        frozen = {_stage(name) for name, m in part.named_modules() if isinstance(m, FrozenBatchNorm2d)}
        frozen |= {_stage(name) for name, p in part.named_parameters() if not p.requires_grad}
        for key in part.state_dict():
            if key not in loaded and _stage(key) in frozen:
                unloaded[_stage(key)] = unloaded.get(_stage(key), 0) + 1
    if unloaded:
        listed = ", ".join(f"{stage} ({count} tensors)" for stage, count in sorted(unloaded.items()))
        raise ValueError(
            f"frozen norms over random weights in {listed}: no weights were loaded there, and frozen parameters are not "
            "trained. Use weights that contain these stages (--weights FILE), or trainable normalisation layers "
            "(model.norm=bn; for conv5_x alone model.conv5_norm=bn; model.freeze_at=0 if the stage is frozen)"
        )


def require_same_network(report: LoadReport) -> None:
    """Raise for weights with unused tensors in conv1 to conv5_x: a deeper network's would silently fill a shallower one.

    Raises:
        ValueError: names the tensors.
    """
    unused = [name for name in report.unused if re.match(r"(conv1|bn1|layer\d+)\.", name)]
    if unused:
        raise ValueError(
            f"the weights are of another network, with {len(unused)} more tensors ({', '.join(unused[:4])}"
            f"{', …' if len(unused) > 4 else ''}); build the network that they were trained with"
        )


def require_complete(report: LoadReport) -> None:
    """Raise unless every tensor of the network was loaded and every one of the weights was used.

    Raises:
        ValueError: names tensors that are missing, of another shape, or of a deeper network.
    """
    require_same_network(report)
    not_loaded = (*report.missing, *report.mismatched)
    if not_loaded:
        raise ValueError(
            f"the weights do not match this network: {len(not_loaded)} tensors are missing or of another shape "
            f"({', '.join(not_loaded[:4])}{', …' if len(not_loaded) > 4 else ''}); is it the network that they were trained "
            "with?"
        )


def _stage(key: str) -> str:
    return _STAGES.get(key.partition(".")[0], "")


# ---- reading ----------------------------------------------------------------------------------------------------


def read_weights(path: str | Path) -> Weights:
    """Read a weights file without executing code from it.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_weights`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    content = read_file(path)
    found = find_tensors(content, str(path))
    layout = layout_of(found.tensors)
    state, notes = _with_eps(found.tensors, layout)
    names = {name: to_torchvision(name, layout) for name in state}
    renamed = {names[name] or name: tensor for name, tensor in state.items()}
    if layout == "caffe2":  # unmapped blobs are training state, such as momentum
        renamed = _caffe2_norms({key: state[name] for name, key in names.items() if key is not None})
    if layout == "torchvision" and pads_both_sides(renamed, undecided="linear.weight" in state):
        renamed = pad_behind(renamed)
        notes.append("its shortcuts A pad channels on both sides: the channels are reordered to padding behind them")
    recipe = _implied_recipe(content, state, layout, str(path))
    for note in (*found.notes, *notes):
        _LOG.warning("%s: %s", path, note)
    return Weights(renamed, layout, recipe, content, str(path), state)


def _with_eps(state: dict[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors with the eps of this package's norms accounted for, and what is to be said of it.

    torchvision's detectors from before its version 0.13, whose names tell them, have frozen norms with an eps of 0; its
    COCO_V1 weights are of that time.
    """
    old = "rpn.head.conv.weight" in state and not any(name.endswith("num_batches_tracked") for name in state)
    if layout != "torchvision" or not old or not is_torchvision_detector(state):
        return state, []
    changed = {name: tensor - 1e-5 for name, tensor in state.items() if name.endswith(".running_var")}
    return state | changed, ["its frozen norms have an eps of 0 (torchvision before 0.13): running_var is less by 1e-5"]


def read_file(path: Path) -> Any:
    """Return the content of a weights file (tensors, arrays, plain containers) without executing code from it.

    Raises:
        ValueError: the format is unknown, or the file is truncated or contains other objects.
    """
    data = path.read_bytes()
    try:
        if data[:4] == b"PK\x03\x04" or data.startswith(_LEGACY_TORCH_MAGIC):
            with torch.serialization.safe_globals(_plain_objects()):
                return _with_arrays(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
        if len(data) > 9 and data[8:9] == b"{":
            # safetensors keeps a file's metadata in its header
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            return {**header.get("__metadata__", {}), "model": load_safetensors(data)}
        return _with_arrays(_ArrayUnpickler(io.BytesIO(data), encoding="latin1").load())
    except Exception as error:  # a damaged file can raise anything in the readers; report one error type
        refused = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if refused:
            reason = (
                f"it contains an object of {refused[1]}, whose code is not run; save the state dict alone, as with "
                "torch.save(model.state_dict(), FILE)"
            )
        raise ValueError(
            f"{path} cannot be read as weights (expected a torch.save file of tensors, safetensors, or a Caffe2/detectron2 "
            f"pickle of arrays; {len(data)} bytes): {reason}"
        ) from error


class _DType:
    """A pickled dtype. numpy.dtype.__setstate__ accepts any state, including flags that make it follow pointers."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?(f[248]|[iu][1248]|b1)", code):
            raise pickle.UnpicklingError(f"an array of dtype {code!r} is not allowed in a weights file")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """A pickled array; its bytes are checked against dtype and shape before numpy reads them."""

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
    result = _Array()
    array = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")
    result.array = array.astype(dtype.dtype.newbyteorder("="))  # a copy, in native byte order
    return result


def _scalar(dtype: Any, data: Any) -> Any:
    return _array_of_bytes(data, dtype, (), "C").array[()]


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickle arrays and plain containers; every other global is refused before it is imported."""

    _ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("collections", "OrderedDict"): dict,
        ("numpy", "dtype"): _DType,
        ("numpy", "ndarray"): _Array,  # an argument of _reconstruct
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


def _plain_objects() -> list[Any]:
    """Return what else torch.load may build: the arrays and numbers of NumPy, options and paths beside the weights of
    training scripts. None of it runs code of the file."""
    arrays = [(value, f"{module}.{name}") for (module, name), value in _ArrayUnpickler._ALLOWED.items()]
    paths = [f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")]
    return [*arrays, *((_path, name) for name in paths), (argparse.Namespace, "argparse.Namespace")]


def _path(*parts: Any) -> str:
    return "/".join(map(str, parts))


def _with_arrays(content: Any, depth: int = 3) -> Any:
    """Replace each ``_Array`` in nested dictionaries by its numpy array."""
    if isinstance(content, _Array):
        return content.array
    if isinstance(content, dict) and depth:
        return {key: _with_arrays(value, depth - 1) for key, value in content.items()}
    return content


def _caffe2_norms(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add running statistics for Caffe2's affine-only norms: mean 0 and, after eps, variance 1."""
    out = dict(tensors)
    for name, tensor in tensors.items():
        if re.search(r"(?:bn\d|downsample\.1)\.weight$", name):
            norm = name.removesuffix("weight")
            out[norm + "running_mean"] = torch.zeros_like(tensor)
            out[norm + "running_var"] = torch.full_like(tensor, 1.0 - 1e-5)
    return out


def _implied_recipe(content: Any, state: Mapping[str, Tensor], layout: Layout, where: str) -> str | None:
    """Return the recipe given by a file's metadata or implied by its layout, or None."""
    name = content.get("recipe")
    if isinstance(name, str):
        return name
    if layout == "torchvision":
        return "torchvision" if is_torchvision_detector(state) else None
    # detectron2's converter writes torchvision's weights in this layout, with their author
    if content.get("__author__") == "torchvision":
        return "torchvision"
    mean = state.get("pixel_mean")
    expected = RECIPES["detectron2"].mean
    if mean is not None and (mean.numel() != 3 or not np.allclose(mean.flatten().tolist(), expected, atol=0.01)):
        raise ValueError(
            f"{where} has pixel_mean {mean.flatten().tolist()}, and detectron2's recipe has {expected}: no recipe is "
            "defined for these weights"
        )
    return "detectron2"
