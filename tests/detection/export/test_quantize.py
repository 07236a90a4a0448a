"""int8 of the parts that are asked for, and of nothing else."""

import pytest
import torch
from exports import save_random

from detection.checkpoint.exported import parse_info
from detection.export import api, formats
from detection.export.parity import check_images
from detection.export.quantize import PARTS, QUANTISED, agreement, part_of, quantize, sensitivity
from detection.inference.runtimes import ExportedDetector

pytestmark = pytest.mark.usefixtures("thin_networks")


def found(*rows):
    boxes = torch.tensor([row[:4] for row in rows], dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": boxes,
        "labels": torch.tensor([r[4] for r in rows]).long(),
        "scores": torch.tensor([r[5] for r in rows]),
    }


def test_agreement_of_a_case_by_hand():
    wanted = [
        found((0, 0, 10, 10, 1, 0.9), (0, 0, 10, 10, 2, 0.8), (20, 20, 30, 30, 1, 0.2)),
        found(),
        found((0, 0, 4, 4, 1, 0.3)),
    ]
    other = [found((0, 0, 10, 8, 1, 0.8), (0, 0, 10, 7, 2, 0.8)), found(), found((0, 0, 4, 4, 1, 0.1))]
    result = agreement(wanted, other)
    # of 0.9, 0.8 and, the best of its image, 0.3: one has an IoU of 0.7 alone
    assert (result.detections, result.found) == (3, pytest.approx(2 / 3))
    assert result.iou == pytest.approx((0.8 + 1) / 2)
    assert result.score == pytest.approx((0.1 + 0.2) / 2)
    assert agreement([found()], [found()]).found == 0


def test_weights_have_parts():
    assert part_of("model.trunk.layer1.0.conv1.weight") == "trunk"
    assert part_of("model.trunk.fpn.output.1.weight") == "pyramid"
    assert part_of("model.rpn.conv.weight") == "rpn"
    assert part_of("model.rpn.deltas.weight") == "rpn layers"
    assert part_of("model.roi_head.deltas.weight") == "box layer"
    assert part_of("detector.model.trunk.conv1.weight") == "trunk"
    assert part_of("val_3") is None
    assert set(QUANTISED) <= set(PARTS)


def test_onnx_in_int8(exported, tmp_path):
    import onnx

    model = onnx.load(exported["onnx"])
    info = parse_info({p.key: p.value for p in model.metadata_props}["resdet"], "file")
    images = check_images(64, 96, (64, 96))
    quantised = quantize("onnx", model, info, images[:3])
    constants = {constant.name: constant.data_type for constant in quantised.graph.initializer}
    assert constants["model.trunk.conv1.weight_quantized"] == onnx.TensorProto.INT8
    for name in ("roi_head.classes", "roi_head.deltas", "rpn.objectness", "rpn.deltas"):
        assert constants[f"model.{name}.weight"] == onnx.TensorProto.FLOAT
    formats.save_onnx(quantised, info, tmp_path / "int8.onnx")
    whole = ExportedDetector(exported["onnx"])(images)
    result = agreement(whole, ExportedDetector(tmp_path / "int8.onnx")(images))
    assert result.found > 0.3  # of a detector that nobody trained


def openvino_layers(model):
    """The layers whose weights are bytes, by the names of these."""
    names = {
        op.get_friendly_name(): op.get_element_type().to_string()
        for op in model.get_ops()
        if op.get_type_name() == "Constant"
    }
    return {part_of(name) for name, kind in names.items() if kind == "i8"} - {None}


def test_openvino_in_int8(exported):
    import openvino

    model = openvino.Core().read_model(exported["openvino"])
    info = ExportedDetector(exported["openvino"]).info
    quantised = quantize("openvino", model, info, check_images(64, 96, (64, 96))[:2], ["rpn"])
    kinds = [op.get_type_name() for op in quantised.get_ops()]
    assert kinds.count("FakeQuantize") >= 2
    assert "FakeQuantize" not in [op.get_type_name() for op in model.get_ops()]  # which stays as it is


@pytest.mark.slow
@pytest.mark.parametrize("target", ["openvino"])
def test_the_whole_way_with_sensitivity(tmp_path, target):
    weights = save_random(tmp_path / "best.pth", "model.roi.score_threshold=0.2")
    options = api.ExportOptions(target, (64, 96), int8=True, calibrate=4)
    info = api.export_detector(weights, tmp_path / f"d{api.suffix_of(target)}", options)
    assert info.precision == "int8"
    assert set(info.parity["int8"]) == set(PARTS) - {"pyramid"} | {"all"}
    assert info.parity["int8"]["all"]["found"] > 0.3


@pytest.mark.parametrize(
    ("target", "images", "parts", "words"),
    [
        ("torch-export", 1, QUANTISED, "int8 is for --to onnx and openvino"),
        ("onnx", 0, QUANTISED, "wants images to calibrate on"),
        ("onnx", 1, ["pyramid"], "has none of pyramid"),
    ],
)
def test_what_cannot_be_quantised(exported, target, images, parts, words):
    import onnx

    info = ExportedDetector(exported["onnx"]).info
    with pytest.raises(ValueError, match=words):
        quantize(target, onnx.load(exported["onnx"]), info, check_images(64, 96, (64, 96))[:images], parts)


def test_sensitivity_names_the_parts_that_there_are(exported, monkeypatch):
    info = ExportedDetector(exported["onnx"]).info

    def fake(target, artefact, info, images, parts):
        if parts == ["pyramid"]:
            raise ValueError("none")
        return parts[0]

    monkeypatch.setattr("detection.export.quantize.quantize", fake)
    detect = {"model": lambda images: [found((0, 0, 9, 9, 1, 0.9))], "trunk": lambda images: [found()]}
    rows = dict(sensitivity("onnx", "model", info, [torch.zeros(3, 8, 8)], lambda x: detect.get(x, detect["model"])))
    assert list(rows) == [part for part in PARTS if part != "pyramid"]
    assert (rows["trunk"].found, rows["rpn"].found) == (0, 1)
