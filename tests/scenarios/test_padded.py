"""Whole commands in the padded form, which GPUs run: the same losses, metrics and detections as the compact one."""

import json

import pytest
from runs import go, rows

from detection.cli import run

ARCHITECTURES = {
    "c4": [],
    "fpn": [
        "model.architecture=fpn", "model.anchors.sizes=[16,32,64,128,256]", "model.roi.fc_channels=32", "model.fpn_channels=16",
    ],
}  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_evaluation_and_prediction(architecture, tmp_path):
    keys = [*ARCHITECTURES[architecture], "model.roi.score_threshold=0.0", "model.norm=gn", "solver.max_iter=2"]
    folders = {}
    for padded in (False, True):
        folder = folders[padded] = tmp_path / f"{'padded' if padded else 'compact'}"
        assert go(folder, *(["--padded"] if padded else []), keys=keys) == 0
    compact, padded = rows(folders[False]), rows(folders[True])
    for ours, theirs in zip(compact, padded, strict=True):
        assert theirs == pytest.approx(ours, rel=2e-4, abs=1e-6, nan_ok=True)
    # the same weights, then every number is the same
    weights = str(folders[False] / "best.pth")
    for form in ([], ["--padded"]):
        output = tmp_path / f"eval{len(form)}"
        assert go(output, "--eval-only", "--weights", weights, *form, keys=keys) == 0
    metrics = [json.loads((tmp_path / f"eval{n}" / "metrics.json").read_text()) for n in (0, 1)]
    assert metrics[0] == metrics[1]
    assert metrics[0] == json.loads((folders[False] / "metrics.json").read_text())
    image = str(folders[False] / "pictures" / "00.png")
    found = []
    for form in ([], ["--padded"]):
        output = tmp_path / f"predict{len(form)}"
        arguments = [
            "--weights",
            weights,
            "--device",
            "cpu",
            "--precision",
            "float32",
            "--output",
            str(output),
            *form,
            image,
        ]
        assert run("predict", arguments) == 0
        found.append(json.loads((output / "detections.json").read_text())["annotations"])
    assert len(found[0]) == len(found[1]) > 0
    for ours, theirs in zip(*found, strict=True):
        assert theirs["category_id"] == ours["category_id"]
        assert theirs["bbox"] == pytest.approx(ours["bbox"], abs=1e-3)
        assert theirs["score"] == pytest.approx(ours["score"], abs=1e-5)
