"""Export from Python: every architecture to every format, in the sizes that a detector is used at."""

import pytest
from exports import PYRAMID, save_random

from detection.export.api import ExportOptions, check_output, export_detector, keep, versions
from detection.inference.runtimes import ExportedDetector

pytestmark = pytest.mark.usefixtures("thin_networks")
SUFFIX = {"torch-export": "pt2", "onnx": "onnx", "openvino": "xml"}


# every architecture, format and kind of size once or twice: a case takes a minute (tools/benchmark.py --mode export has all)
CASES = [
    ((), "torch-export", None, 1),
    (("model.architecture=dc5",), "openvino", (64, 96), None),
    (PYRAMID, "onnx", (64, 96), 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "target", "size", "batch"), CASES, ids=["c4", "dc5", "fpn"])
def test_every_architecture_to_every_format(tmp_path, keys, target, size, batch):
    output = tmp_path / f"d.{SUFFIX[target]}"
    info = export_detector(save_random(tmp_path / "best.pth", *keys), output, ExportOptions(target, size, batch))
    assert info.parity["detections"] > 50
    assert info.parity["box"] <= 0.01
    assert info.parity["score"] <= 1e-4
    assert ExportedDetector(output).info == info


@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), [("mobilenetv3_small_050", "fpn")])
def test_timms_backbones(tmp_path, name, architecture):
    keys = [f"model.backbone=timm://{name}", f"model.architecture={architecture}", "model.recipe=torchvision"]
    keys += [PYRAMID[1]] if architecture == "fpn" else []
    weights = save_random(tmp_path / "best.pth", *keys)
    info = export_detector(weights, tmp_path / "d.onnx", ExportOptions("onnx", (64, 96)))
    assert info.parity["detections"] > 20


def test_files_of_an_export(tmp_path):
    assert check_output(tmp_path / "d.xml", "openvino") == [tmp_path / "d.xml", tmp_path / "d.bin"]
    (tmp_path / "d.bin").write_text("mine")
    with pytest.raises(FileExistsError, match=r"d.bin already exists"):
        check_output(tmp_path / "d.xml", "openvino")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in ("e.xml", "e.bin"):
        (scratch / name).write_text(name)
    keep(scratch / "e.xml", check_output(tmp_path / "e.xml", "openvino"))
    assert (tmp_path / "e.bin").read_text() == "e.bin"
    assert {"torch", "onnx", "openvino"} <= set(versions())
