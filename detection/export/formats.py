"""A detector's graph to a file: torch.export's archive, ONNX, OpenVINO."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detection.checkpoint.exported import KEY, ExportInfo
from detection.export.graph import OUTPUTS
from detection.export.onnx_translations import translations

OPSET = 18
_MISSING = "--to {0} requires {1}: pip install 'resdet[{0}]'"
# with these, the graph holds for other sizes: a side of 1 or 2 cells is a special case to torch.export
_EXAMPLE = (160, 224)


def trace(graph: nn.Module, info: ExportInfo) -> Any:
    """Return the ``torch.export`` program of a graph, with the batch, height and width of ``info`` fixed or free.

    Raises:
        ValueError: the model has a part that torch.export does not take; says which.
    """
    free_size = info.size is None or info.resize
    height, width = _EXAMPLE if free_size or info.size is None else info.size
    count = info.batch or 2
    shape = (count, 3, height, width)
    images = torch.zeros(shape, dtype=torch.uint8) if info.dtype == "uint8" else torch.zeros(shape)
    free = torch.export.Dim.DYNAMIC
    axes = {0: free} if info.batch is None else {}
    dynamic: dict[str, Any] = {"images": axes | ({2: free, 3: free} if free_size else {})}
    inputs: tuple[Tensor, ...] = (images,)
    if info.takes_sizes:
        inputs += (torch.tensor([[height, width]] * count),)
        dynamic["sizes"] = axes
    try:
        with _quiet():
            return torch.export.export(graph, inputs, dynamic_shapes=dynamic, strict=False)
    except Exception as error:  # of many types
        raise ValueError(f"torch.export cannot take this detector: {_first_line(error)}") from error


def save_torch_export(program: Any, info: ExportInfo, path: Path) -> None:
    """Write ``torch.export.save``'s archive, with the metadata as an extra file."""
    torch.export.save(program, path, extra_files={f"{KEY}.json": info.to_json()})


def to_onnx(program: Any, info: ExportInfo) -> Any:
    """Return an ``onnx.ModelProto`` of the program.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(_MISSING.format("onnx", "onnx and onnxscript")) from error
    names = ["images", "sizes"] if info.takes_sizes else ["images"]
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            custom_translation_table=translations(),
            opset_version=OPSET,
            input_names=names,
            output_names=list(OUTPUTS),
            verbose=False,
            optimize=False,  # the runtimes do it when they open a file, and it takes long
        )
    assert exported is not None
    return exported.model_proto


def save_onnx(model: Any, info: ExportInfo, path: Path) -> None:
    """Write an ``onnx.ModelProto`` with the metadata among its properties."""
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: info.to_json()})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def to_openvino(program: Any, info: ExportInfo) -> Any:
    """Return an ``openvino.Model`` of the program, by way of ONNX.

    Raises:
        ImportError: openvino, or what ONNX's files are written with, is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ImportError(_MISSING.format("openvino", "openvino")) from error
    return openvino.Core().read_model(to_onnx(program, info).SerializeToString())


def save_openvino(model: Any, info: ExportInfo, path: Path) -> None:
    """Write an ``openvino.Model`` as FILE.xml, with the metadata in its runtime information, and FILE.bin beside it."""
    import openvino

    model.set_rt_info(info.to_json(), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


CONVERTERS: dict[str, Callable[[Any, ExportInfo], Any]] = {
    "torch-export": lambda program, info: program,
    "onnx": to_onnx,
    "openvino": to_openvino,
}
SAVERS: dict[str, Callable[[Any, ExportInfo, Path], None]] = {
    "torch-export": save_torch_export,
    "onnx": save_onnx,
    "openvino": save_openvino,
}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' advice to their developers off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
