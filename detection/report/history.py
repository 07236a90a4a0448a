"""What a run's own files say: its training curves, its speed, and how training and validation data differ."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from detection.analysis.drift import brightness, histogram_shares, shared, shares, total_variation
from detection.analysis.scene import Scene
from detection.data.annotations import Annotations
from detection.report.sources import ImageOf

_LOG = logging.getLogger(__name__)
_POINTS = 400  # of a curve
_FILES, _IMAGES = 3000, 60  # compared by content; whose brightness is measured
SIDES = (0, 16, 32, 64, 96, 128, 256, 1e9)


def curves(folder: Path) -> dict[str, Any] | None:
    """Return the columns of a run's metrics.jsonl, thinned out to 400 rows besides those of evaluations; None without it."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    training = [row for row in rows if "loss" in row]
    training = training[:: max(1, -(-len(training) // _POINTS))]
    evaluations = [row for row in rows if "AP" in row]
    losses = [k for k in (training[-1] if training else {}) if k.startswith("loss")]
    return {
        "step": [row["step"] for row in training],
        "losses": {k: [row.get(k) for row in training] for k in losses},
        "lr": [row.get("lr") for row in training],
        "evaluations": [
            {k: row.get(k) for k in ("step", "AP", "AP50", "VOC07_mAP") if k in row} for row in evaluations
        ],
    }


def speed(folder: Path) -> dict[str, Any] | None:
    """Return medians of a run's seconds a step, of waiting for images, images a second and memory; None without a log."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    result = {}
    for name in ("seconds", "data_seconds", "images_per_second", "memory_mb"):
        values = [row[name] for row in rows if row.get(name) is not None]
        result[name] = float(np.median(values)) if values else None
    return result if any(v is not None for v in result.values()) else None


def drift(scene: Scene, train: Annotations, val: Annotations | None, read: ImageOf | None) -> dict[str, Any]:
    """Return how training and validation data differ: class shares, sizes, brightness, and files that are in both.

    Args:
        scene: of the validation set.
        train, val: the data sets.
        read: reads an image by its path in those; None where there are none.
    """
    label_of = {name: k for k, name in enumerate(scene.classes)}
    table = np.array([label_of.get(name, -1) for name in train.classes], dtype=np.int64)
    labels = table[train.labels - 1] if len(train.labels) else np.zeros(0, dtype=np.int64)
    of_train, of_val = (shares(x[x >= 0], len(label_of)) for x in (labels, scene.object_label))
    side_train = np.sqrt(np.clip(train.areas, 0, None))
    side_val = np.sqrt(np.clip(scene.object_area, 0, None))
    sizes = [histogram_shares(x, SIDES).tolist() for x in (side_train, side_val)]
    result: dict[str, Any] = {
        "images": [len(train), len(scene.image_ids)],
        "classes": [
            {"class": name, "train": float(a), "val": float(b)}
            for name, a, b in zip(scene.classes, of_train, of_val, strict=True)
        ],
        "class_distance": total_variation(of_train, of_val),
        "sides": list(SIDES[:-1]),
        "sizes": sizes,
        "size_distance": total_variation(np.array(sizes[0]), np.array(sizes[1])),
    }
    if val is not None and read is not None:
        files = list(train.files), list(val.files)
        result["brightness"] = [_brightness(names, read) for names in files]
        result["shared"] = shared_files(*files)
    return result


def shared_files(train: list[str], val: list[str]) -> list[list[str]]:
    """Return pairs of files with equal content, of at most 3,000 files each."""
    digests = [[_digest(path) for path in files[:_FILES]] for files in (train, val)]
    known = [[d for d in side if d] for side in digests]
    if not all(known):
        return []
    return [[train[i], val[j]] for i, j in shared(digests[0], digests[1]) if digests[0][i]]


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _brightness(files: list[str], read: ImageOf) -> dict[str, float] | None:
    """Return mean and standard deviation of the brightness of some images, evenly chosen; None where none can be read."""
    values = []
    for name in files[:: max(1, len(files) // _IMAGES)][:_IMAGES]:
        try:
            values.append(brightness(read(name)))
        except Exception as error:  # of decoders and disks: the page does without
            _LOG.debug("%s: brightness not measured: %s", name, error)
    return (
        {"mean": float(np.mean(values)), "deviation": float(np.std(values)), "images": len(values)} if values else None
    )
