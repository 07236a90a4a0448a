"""Commands with padded shapes, as on GPUs, have the losses, metrics and detections of the compact form."""

import json

import pytest
from runs import rows, train

from detection.cli import run

pytestmark = pytest.mark.usefixtures("thin_networks")
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
        assert train(folder, *(["--padded"] if padded else []), keys=keys) == 0
    compact, padded = rows(folders[False]), rows(folders[True])
    for compact_row, padded_row in zip(compact, padded, strict=True):
        assert padded_row == pytest.approx(compact_row, rel=2e-4, abs=1e-6, nan_ok=True)
    # with the same weights all metrics are equal
    weights = str(folders[False] / "best.pth")
    for flags in ([], ["--padded"]):
        output = tmp_path / f"eval{len(flags)}"
        assert train(output, "--eval-only", "--weights", weights, *flags, keys=keys) == 0
    metrics = [json.loads((tmp_path / f"eval{n}" / "metrics.json").read_text()) for n in (0, 1)]
    assert metrics[0] == metrics[1]
    assert metrics[0] == json.loads((folders[False] / "metrics.json").read_text())
    image = str(folders[False] / "pictures" / "00.png")
    detections = []
    for flags in ([], ["--padded"]):
        output = tmp_path / f"predict{len(flags)}"
        arguments = [
            "--weights",
            weights,
            "--device",
            "cpu",
            "--precision",
            "float32",
            "--output",
            str(output),
            *flags,
            image,
        ]
        assert run("predict", arguments) == 0
        detections.append(json.loads((output / "detections.json").read_text())["annotations"])
    assert len(detections[0]) == len(detections[1]) > 0
    for compact_row, padded_row in zip(*detections, strict=True):
        assert padded_row["category_id"] == compact_row["category_id"]
        assert padded_row["bbox"] == pytest.approx(compact_row["bbox"], abs=1e-3)
        assert padded_row["score"] == pytest.approx(compact_row["score"], abs=1e-5)
