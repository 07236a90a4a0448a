"""Measure what an option does to rare classes: recall with and without it, a table over seeds.

    python tools/benchmarks/rare_classes.py --config faster_rcnn_r50_fpn_own_data.yaml --output output/rare \
        --keys data.format=coco data.root=FOLDER data.train=train2017 data.val=val2017 \
        --option data.repeat_threshold=0.05

Each run is a folder of --output; a finished one is kept. Recall is COCO's (the mean over the IoUs .5 to .95, 100 detections
an image), averaged over the classes that the threshold repeats, and over the others; classes without an object in the
validation set have none.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a file

from detection.config import load_config
from detection.data.loader import TrainSet
from detection.data.opening import open_source
from detection.training.api import train


def main() -> int:
    """Train the runs that are not finished, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--keys", nargs="*", default=[], help="overrides of all runs")
    parser.add_argument("--option", nargs="+", default=["data.repeat_threshold=0.05"], help="overrides of half of them")
    parser.add_argument(
        "--threshold", type=float, default=0.05, help="classes on a smaller fraction of images are rare"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    rows: dict[str, list[tuple[float, float, float]]] = {"without": [], "with": []}
    for seed in args.seeds:
        for name, keys in (("without", []), ("with", args.option)):
            folder = args.output / f"{name}-{seed}"
            if not (folder / "metrics.json").exists():
                train(args.config, [*args.keys, *keys, f"seed={seed}"], output=folder)
            rows[name].append(recalls(args.config, args.keys, folder, args.threshold))
    print(f"| {' '.join(args.option)} | recall, rare classes | recall, others | AP |\n|---|---|---|---|")
    for name, values in rows.items():
        columns = zip(*values, strict=True)
        print(
            f"| {name} | " + " | ".join(f"{statistics.mean(c):.3f} ({min(c):.3f}-{max(c):.3f})" for c in columns) + " |"
        )
    return 0


def recalls(config_name: str, keys: list[str], folder: Path, threshold: float) -> tuple[float, float, float]:
    """Return the mean recall of the rare classes and of the others, and AP, of a finished run."""
    config = load_config(config_name, keys)
    source = open_source(config.data)
    assert source.train is not None
    assert source.val is not None
    dataset, records = TrainSet(source.train, source.read, config.data, 0), source.train
    images, keep = dataset.usable(), dataset.objects.keep
    pairs = np.unique(np.column_stack((records.image_of()[keep], records.labels[keep])), axis=0)
    frequency = np.bincount(pairs[:, 1], minlength=len(records.classes) + 1)[1:] / len(images)
    truth = COCO()
    truth.dataset = source.val.to_coco()
    truth.createIndex()
    evaluation = COCOeval(
        truth, truth.loadRes(json.loads((folder / "detections.json").read_text(encoding="utf-8"))), "bbox"
    )
    evaluation.evaluate()
    evaluation.accumulate()
    recall = evaluation.eval["recall"][:, :, 0, -1]  # [IoUs, classes in the order of their ids]
    recall = recall.mean(axis=0)[np.argsort(np.argsort(source.val.category_ids))]
    seen = recall >= 0
    rare = seen & (frequency < threshold)
    ap = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["AP"]
    return float(recall[rare].mean()), float(recall[seen & ~rare].mean()), float(ap)


if __name__ == "__main__":
    sys.exit(main())
