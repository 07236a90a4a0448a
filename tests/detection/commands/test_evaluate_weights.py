"""Exported files are evaluated as their checkpoint is."""

import json

import pytest

from detection.cli import run

pytestmark = pytest.mark.usefixtures("thin_networks")


def go(weights, output, *keys):
    code = run("evaluate", ["--weights", str(weights), "--output", str(output), *keys])
    return code, json.loads((output / "metrics.json").read_text()) if code == 0 else None


def test_an_exported_file_has_its_checkpoints_metrics(exported, tmp_path):
    keys = ["model.roi.score_threshold=0.05"]
    _, wanted = go(exported["weights"], tmp_path / "pth", *keys)
    code, found = go(exported["onnx"], tmp_path / "onnx")
    assert code == 0
    assert wanted["AP50"] is not None
    for name in ("AP", "AP50", "VOC_mAP"):
        assert found[name] == pytest.approx(wanted[name], abs=1e-3)
    rows = [json.loads((tmp_path / name / "detections.json").read_text()) for name in ("pth", "onnx")]
    assert len(rows[0]) == len(rows[1]) > 20


def test_keys_that_an_exported_file_holds_are_refused(exported, tmp_path, capsys):
    assert go(exported["onnx"], tmp_path / "out", "model.roi.nms_iou=0.3")[0] == 2
    assert "model.roi.nms_iou=0.3 goes to resdet export" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_files_are_one_message(tmp_path, capsys):
    assert go(tmp_path / "none.onnx", tmp_path / "out")[0] == 2
    assert "none.onnx" in capsys.readouterr().err
