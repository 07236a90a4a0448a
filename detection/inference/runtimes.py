"""Exported detectors, run by ONNX Runtime, OpenVINO or torch.export, with the interface of :class:`FasterRCNN` in
evaluation: images in, detections out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import detection.ops.nms  # noqa: F401  # registers the operator that a torch.export archive calls
from detection.checkpoint.exported import KEY, ExportInfo, parse_info, target_of
from detection.modeling.structures import Detections, check_images

OUTPUTS = ("boxes", "labels", "scores", "count")
Inputs = dict[str, NDArray[Any]]
Run = Callable[[Inputs], list[NDArray[Any]]]  # inputs by name -> the outputs, in the order of OUTPUTS
_TOLD = "{} is opened with {}, which is not installed: pip install 'resdet[{}]'"


class ExportedDetector(nn.Module):
    """An exported detector: ``detector(images)`` as a :class:`FasterRCNN` in evaluation.

    Args:
        path: FILE.onnx, FILE.xml (with FILE.bin beside it) or FILE.pt2.
        precision: that the runtime may multiply in: float32, or bf16 where OpenVINO has it.
        device: of a torch.export archive; the other runtimes use the CPU.

    Attributes:
        info: what the file says of itself.

    Raises:
        FileNotFoundError, ValueError: no such file, or none of this project's.
        ImportError: the runtime is not installed.
    """

    def __init__(self, path: str | Path, precision: str = "float32", device: torch.device | None = None) -> None:
        super().__init__()
        path, target = Path(path), target_of(path)
        if target is None:
            raise ValueError(f"{path} is no exported detector: wanted a name that ends in .onnx, .xml or .pt2")
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        self.target, self.path = target, path
        opened: tuple[Run, ExportInfo] = _OPENERS[target](path, precision, device or torch.device("cpu"))
        self.run, self.info = opened
        self.eval()

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[Detections]:
        """Return the detections of images, float RGB 0..1 [3, H, W] each, or uint8.

        Raises:
            ValueError: images that the file's fixed size does not hold.
        """
        check_images([image if image.is_floating_point() else image.float() for image in images])
        size = self.info.batch or len(images)
        found: list[Detections] = []
        for begin in range(0, len(images), size):
            found += self._batch(images[begin : begin + size])
        return found

    def _batch(self, images: Sequence[Tensor]) -> list[Detections]:
        boxes, labels, scores, counts = self.run(as_inputs(self.info, images))
        return [
            {
                "boxes": torch.from_numpy(boxes[i, : counts[i]].copy()),
                "labels": torch.from_numpy(labels[i, : counts[i]].astype(np.int64)),
                "scores": torch.from_numpy(scores[i, : counts[i]].copy()),
            }
            for i in range(len(images))
        ]


def as_inputs(info: ExportInfo, images: Sequence[Tensor]) -> Inputs:
    """Return an exported detector's inputs for images [3, H, W]: padded to one size, and their sizes where it takes them.

    Raises:
        ValueError: images that its fixed size does not hold.
    """
    fixed = None if info.resize else info.size
    height, width = fixed or (max(x.shape[-2] for x in images), max(x.shape[-1] for x in images))
    for image in images:
        if image.shape[-2] > height or image.shape[-1] > width:
            raise ValueError(
                f"the exported detector takes images of at most {height}x{width}, got {image.shape[-2]}x{image.shape[-1]}: "
                "export it with --size dynamic"
            )
    pixels = [_pixels(image, info.dtype) for image in images]
    rows = [F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in pixels]
    count = info.batch or len(rows)
    rows += [torch.zeros_like(rows[0])] * (count - len(rows))
    inputs = {"images": torch.stack(rows).cpu().numpy()}
    if info.takes_sizes:
        sizes = [[x.shape[-2], x.shape[-1]] for x in images] + [[height, width]] * (count - len(images))
        inputs["sizes"] = np.array(sizes, dtype=np.int64)
    return inputs


def _pixels(image: Tensor, dtype: str) -> Tensor:
    if dtype == "uint8":
        return (image * 255).round().to(torch.uint8) if image.is_floating_point() else image
    return image.float() if image.is_floating_point() else image.float() / 255


def _open_onnx(path: Path, precision: str, device: torch.device) -> tuple[Run, ExportInfo]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(_TOLD.format(path, "onnxruntime", "onnx")) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types
        raise ValueError(f"{path} cannot be opened by ONNX Runtime: {str(error).strip().splitlines()[0]}") from None
    info = parse_info(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    return lambda inputs: list(session.run(list(OUTPUTS), inputs)), info


def _open_openvino(path: Path, precision: str, device: torch.device) -> tuple[Run, ExportInfo]:
    try:
        import openvino
    except ImportError as error:
        raise ImportError(_TOLD.format(path, "openvino", "openvino")) from error
    core = openvino.Core()
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be opened by OpenVINO: {str(error).strip().splitlines()[-1]}") from None
    text = str(model.get_rt_info([KEY]).value) if model.has_rt_info([KEY]) else None
    info = parse_info(text, path)
    hints = {"float32": "f32", "bf16": "bf16", "fp16": "f16"}
    settings = {
        "INFERENCE_PRECISION_HINT": hints[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run(inputs: Inputs) -> list[NDArray[Any]]:
        results = request.infer(inputs)
        return [results[name] for name in OUTPUTS]

    return run, info


def _open_torch_export(path: Path, precision: str, device: torch.device) -> tuple[Run, ExportInfo]:
    extra = {f"{KEY}.json": ""}
    try:
        program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # zip, pickle and torch's own types
        raise ValueError(f"{path} cannot be opened by torch.export: {str(error).strip()[:200]}") from None
    info = parse_info(extra[f"{KEY}.json"], path)
    # its guards say which sizes its shapes were derived for; the operators take any (detection.export.parity checks)
    module = program.module(check_guards=False).to(device)

    def run(inputs: Inputs) -> list[NDArray[Any]]:
        tensors = [torch.from_numpy(value).to(device) for value in inputs.values()]
        with torch.no_grad():
            return [output.cpu().numpy() for output in module(*tensors)]

    return run, info


_OPENERS: dict[str, Callable[[Path, str, torch.device], tuple[Run, ExportInfo]]] = {
    "onnx": _open_onnx,
    "openvino": _open_openvino,
    "torch-export": _open_torch_export,
}
