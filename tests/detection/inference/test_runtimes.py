"""Exported files in their runtimes give the detector's detections: of one trace, for several sizes and batches."""

import dataclasses
import sys

import pytest
import torch

from detection import load_detector
from detection.export.api import check_file
from detection.export.parity import check_images
from detection.inference.runtimes import ExportedDetector, as_inputs

pytestmark = pytest.mark.usefixtures("thin_networks")
TARGETS = ["torch-export", "onnx", "openvino"]


@pytest.mark.parametrize("target", TARGETS)
def test_detections_are_the_detectors(exported, target):
    model, _ = load_detector(exported["weights"])
    parity = check_file(ExportedDetector(exported[target]), model, check_images(64, 96))
    assert parity.faults == []
    assert (parity.images, parity.box < 0.01, parity.score < 1e-4) == (8, True, True)
    assert parity.detections > 50


@pytest.mark.parametrize("target", TARGETS)
def test_a_batch_is_its_images(exported, target):
    detector = ExportedDetector(exported[target])
    # of one size: padding changes what the network sees at borders, of the detector too
    image = check_images(64, 96)[0].float() / 255
    images = [image, image.flip(2), image.flip(1)]
    together, alone = detector(images), [detector([image])[0] for image in images]
    for a, b in zip(together, alone, strict=True):
        assert a["labels"].tolist() == b["labels"].tolist()
        assert torch.allclose(a["boxes"], b["boxes"], atol=1e-3)
        assert a["labels"].dtype == torch.int64


def test_inputs_are_padded_to_a_fixed_size(exported):
    info = dataclasses.replace(ExportedDetector(exported["onnx"]).info, size=(64, 96), batch=3)
    inputs = as_inputs(info, [torch.ones(3, 60, 90), torch.full((3, 64, 96), 7, dtype=torch.uint8)])
    assert inputs["images"].shape == (3, 3, 64, 96)
    assert inputs["sizes"].tolist() == [[60, 90], [64, 96], [64, 96]]
    assert (inputs["images"][0, :, :60, :90] == 255).all()
    assert inputs["images"].sum() == 3 * 60 * 90 * 255 + 3 * 64 * 96 * 7
    with pytest.raises(ValueError, match="at most 64x96, got 65x96"):
        as_inputs(info, [torch.zeros(3, 65, 96)])
    assert as_inputs(dataclasses.replace(info, dtype="float32"), [torch.ones(3, 8, 8)])["images"].max() == 1


@pytest.mark.parametrize("name", ["d.onnx", "d.xml", "d.pt2"])
def test_other_files_are_one_message(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match=name):
        ExportedDetector(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=f"{name} cannot be opened"):
        ExportedDetector(path)


def test_another_projects_file_is_said_to_be_one(exported, tmp_path):
    import onnx

    model = onnx.load(exported["onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"other.onnx is no exported detector of this project"):
        ExportedDetector(tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"wanted a name that ends in .onnx, .xml or .pt2"):
        ExportedDetector(exported["weights"])


@pytest.mark.parametrize(("target", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_runtime_that_is_missing_is_named(exported, target, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}, which is not installed: pip install 'resdet\[{target}\]'"):
        ExportedDetector(exported[target])
