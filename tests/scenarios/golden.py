"""Golden results of small fixed runs; ``python tests/scenarios/golden.py`` rewrites golden.json.

Only commands and run files are used, so that the code can be refactored. On the CPU type and torch version that wrote them, float32
losses, detections and metrics must be bit-equal.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

FILE = Path(__file__).with_name("golden.json")
KEYS = [
    "data.train=12", "data.val=3", "data.short_side=[96]", "data.max_side=128", "data.workers=0", "pretrain.iterations=0",
    "model.norm=bn", "model.conv5_norm=null", "model.freeze_at=0", "solver.precision=float32", "solver.batch_size=2",
    "solver.max_iter=20", "solver.log_every=1", "solver.checkpoint_every=20", "solver.base_lr=0.002",
    "model.rpn.after_nms_train=40", "model.rpn.after_nms_test=20", "model.roi.batch_per_image=16", "model.roi.max_detections=5",
    "model.roi.score_threshold=0.0",
]  # fmt: skip
RUNS = {
    "c4": [],
    "fpn": ["model.architecture=fpn", "model.anchors.sizes=[16,32,64,128,256]", "model.roi.resolution=7", "model.roi.fc_channels=64"],
    "dc5": ["model.architecture=dc5", "model.roi.resolution=7", "model.roi.fc_channels=64"],
}  # fmt: skip
COLUMNS = ("loss_objectness", "loss_rpn_box", "loss_classifier", "loss_box")


def machine() -> dict[str, str]:
    """Return what bit-equal results depend on: CPU instruction set and torch version."""
    return {"cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}", "torch": torch.__version__}


def run(keys: list[str], output: Path) -> dict[str, Any]:
    """Train with the command on one thread; return the results that are compared."""
    from runs import command_train  # tests/runs.py; pytest puts tests/ on the path

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        code = command_train(["--config", "quickstart.yaml", "--output", str(output), *KEYS, *keys])
    finally:
        torch.set_num_threads(threads)
    assert code == 0
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    metrics = json.loads((output / "metrics.json").read_text())
    state = torch.load(output / "last.pth", map_location="cpu", weights_only=True)["state_dict"]
    return {
        "losses": [[row[name] for name in COLUMNS] for row in rows if "loss" in row],
        "detections": [
            [d["image_id"], d["category_id"], *d["bbox"], d["score"]]
            for d in json.loads((output / "detections.json").read_text())
        ],
        "metrics": {name: value for name, value in metrics.items() if isinstance(value, float)},
        "tensors": sorted(state),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: run(keys, Path(folder) / name) for name, keys in RUNS.items()}
    FILE.write_text(json.dumps({"machine": machine(), "runs": runs}, separators=(",", ":")) + "\n")
    print(f"{FILE}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
