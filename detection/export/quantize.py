"""int8 after training: OpenVINO's files by NNCF, ONNX's by ONNX Runtime's static quantisation, with ranges from images.

A detector's parts have different needs. Convolutions and fully connected layers of the trunk, the pyramid, the RPN and the
head are quantised; what decodes boxes never is, and the last layers, whose outputs are logits and offsets, only on demand.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torchvision.ops import box_iou

from detection.checkpoint.exported import ExportInfo
from detection.inference.runtimes import Inputs, as_inputs
from detection.modeling.structures import Detections

# a part's name -> what the names of its weights begin with; of several the first counts
PARTS = {
    "rpn layers": ("model.rpn.objectness.", "model.rpn.deltas."),
    "class layer": ("model.roi_head.classes.",),
    "box layer": ("model.roi_head.deltas.",),
    "pyramid": ("model.trunk.fpn.",),
    "trunk": ("model.trunk.",),
    "rpn": ("model.rpn.",),
    "head": ("model.roi_head.head.",),
}
QUANTISED = ("trunk", "pyramid", "rpn", "head")
_WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")  # OpenVINO's names
_STOP = ("ROIAlign", "ROIPooling", "Parameter", "Constant", "ShapeOf")
_SURE = 0.5  # score from which detections are compared
_SAME_IOU = 0.75
Detect = Callable[[Sequence[Tensor]], Sequence[Detections]]


@dataclass(frozen=True)
class Agreement:
    """How detections with a score of at least 0.5 (or the best of each image, where there are none) are found again.

    Attributes:
        detections: of the float detector.
        found: fraction of them that has a detection of its label with an IoU of at least 0.75.
        iou: mean IoU of those.
        score: mean difference of their scores.
    """

    detections: int
    found: float
    iou: float
    score: float

    def __str__(self) -> str:
        return f"{self.found:6.1%} of {self.detections} found again, IoU {self.iou:.4f}, scores within {self.score:.4f}"


def agreement(wanted: Sequence[Detections], found: Sequence[Detections]) -> Agreement:
    """Compare the detections of images with those of another form of the detector."""
    ious: list[float] = []
    scores: list[float] = []
    count = 0
    for a, b in zip(wanted, found, strict=True):
        sure = (a["scores"] >= min(_SURE, _best(a))).nonzero()[:, 0]
        count += len(sure)
        for i in sure.tolist():
            same = (b["labels"] == a["labels"][i]).nonzero()[:, 0]
            overlap = box_iou(a["boxes"][i][None], b["boxes"][same])[0]
            if len(same) and float(overlap.max()) >= _SAME_IOU:
                best = int(overlap.argmax())
                ious.append(float(overlap[best]))
                scores.append(abs(float(a["scores"][i] - b["scores"][same[best]])))
    mean = [float(np.mean(values)) if values else float("nan") for values in (ious, scores)]
    return Agreement(count, len(ious) / max(count, 1), *mean)


def _best(detections: Detections) -> float:
    return float(detections["scores"].max()) if len(detections["scores"]) else 0.0


def part_of(weight: str) -> str | None:
    """Return the part that a weight belongs to, by its name; None for other constants."""
    name = weight.removeprefix("detector.")  # of a graph that resizes
    return next((part for part, prefixes in PARTS.items() if name.startswith(prefixes)), None)


def quantize(
    target: str, artefact: Any, info: ExportInfo, images: Sequence[Tensor], parts: Iterable[str] = QUANTISED
) -> Any:
    """Return an artefact of :data:`detection.export.formats.CONVERTERS` with layers in int8.

    Args:
        target: onnx or openvino.
        artefact: the float model, which stays as it is.
        info: its metadata.
        images: to calibrate on, uint8 [3, H, W], at the size that the network sees.
        parts: keys of ``PARTS``.

    Raises:
        ValueError: another target, no images, or none of these parts in the model.
        ImportError: nncf or onnxruntime is not installed.
    """
    if target not in _QUANTIZERS:
        raise ValueError(f"int8 is for --to onnx and openvino, got {target}")
    if not images:
        raise ValueError(
            "int8 wants images to calibrate on, got none: --calibrate FOLDER, or a number of training images"
        )
    return _QUANTIZERS[target](artefact, [as_inputs(info, [image]) for image in images], set(parts))


def sensitivity(
    target: str, artefact: Any, info: ExportInfo, images: Sequence[Tensor], detect: Callable[[Any], Detect]
) -> Iterator[tuple[str, Agreement]]:
    """Yield for each part that the model has what its int8 alone changes.

    Args:
        target, artefact, info, images: as of :func:`quantize`.
        detect: opens an artefact.
    """
    wanted = detect(artefact)(images)
    for part in PARTS:
        try:
            quantised = quantize(target, artefact, info, images, [part])
        except ValueError:  # no such part: a pyramid, in C4
            continue
        yield part, agreement(wanted, detect(quantised)(images))


def _openvino(model: Any, samples: list[Inputs], parts: set[str]) -> Any:
    try:
        import nncf
    except ImportError as error:
        raise ImportError("int8 for OpenVINO requires nncf: pip install 'resdet[openvino]'") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    kept = _openvino_path(model, parts)
    names = [op.get_friendly_name() for op in model.get_ops()]
    types = {op.get_friendly_name(): op.get_type_name() for op in model.get_ops()}
    ignored = [name for name in names if name not in kept and types[name] not in ("Constant", "Parameter", "Result")]
    return nncf.quantize(
        model.clone(),
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
        ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
        # a CPU without VNNI adds products of bytes in 16 bits
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )


def _openvino_path(model: Any, parts: set[str]) -> set[str]:
    """Return the operators of the parts: their layers with weights, and what lies between these and the maps they take."""
    layers = {op.get_friendly_name(): op for op in model.get_ops() if op.get_type_name() in _WEIGHTED}
    weighted = {name: part for name, op in layers.items() if (part := _openvino_part(op)) is not None}
    kept, todo = set[str](), [layers[name] for name, part in weighted.items() if part in parts]
    if not todo:
        raise ValueError(f"the model has none of {', '.join(sorted(parts))}")
    while todo:
        op = todo.pop()
        name = op.get_friendly_name()
        if name in kept or op.get_type_name() in _STOP or (name in weighted and weighted[name] not in parts):
            continue
        kept.add(name)
        todo += [op.input(i).get_source_output().get_node() for i in range(op.get_input_size())]
    return kept


def _openvino_part(op: Any) -> str | None:
    node = op.input(1).get_source_output().get_node()
    while node.get_input_size() and node.get_type_name() != "Constant":  # transposed or reshaped
        node = node.input(0).get_source_output().get_node()
    return part_of(node.get_friendly_name())


class _Reader:
    """Calibration samples as ONNX Runtime asks for them."""

    def __init__(self, samples: list[Inputs]) -> None:
        self.samples = iter(samples)

    def get_next(self) -> Inputs | None:
        return next(self.samples, None)


def _onnx(model: Any, samples: list[Inputs], parts: set[str]) -> Any:
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise ImportError("int8 for ONNX requires onnxruntime: pip install 'resdet[onnx]'") from error
    constants = {constant.name for constant in model.graph.initializer}
    nodes = [
        node.name
        for node in model.graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
        and any(name in constants and part_of(name) in parts for name in node.input[1:2])
    ]
    if not nodes:
        raise ValueError(f"the model has none of {', '.join(sorted(parts))}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        source = Path(folder) / "float.onnx"
        onnx.save(model, source)
        quantize_static(
            str(source),
            str(path),
            _Reader(samples),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=nodes,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            reduce_range=True,  # a CPU without VNNI adds products of bytes in 16 bits
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(path)


_QUANTIZERS: dict[str, Callable[[Any, list[Inputs], set[str]], Any]] = {"openvino": _openvino, "onnx": _onnx}
