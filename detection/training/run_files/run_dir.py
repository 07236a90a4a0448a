"""The run folder: its files, backup of earlier files, log.txt and annotated images."""

import contextlib
import json
import logging
import logging.handlers
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detection.data.annotations import Annotations
from detection.evaluation.visualize import BoxAnnotations, contact_sheet, draw, side_by_side

_LOG = logging.getLogger(__name__)
EVALUATION_FILES = ("metrics.json", "per_class.csv", "detections.json", "ground_truth.json", "pictures")
TRAINING_FILES = (
    *("config.yaml", "run.json", "dataset.json", "metrics.jsonl", "metrics.csv", "log.txt", "tensorboard"),
    *("last.pth", "previous.pth", "best.pth", "not_finite.pth"),
)
RUN_FILES = (*EVALUATION_FILES, *TRAINING_FILES)
_LOGGERS = ("detection", "backbone")
_MAX_IMAGES, _MIN_SCORE, _MAX_SIDE = 8, 0.5, 640


def move_earlier_run(output: Path, names: Iterable[str]) -> None:
    """Create the folder and move an earlier run's files with these names to a subfolder earlier-N; overwrite nothing."""
    output.mkdir(parents=True, exist_ok=True)
    earlier = [output / name for name in names if (output / name).exists()]
    if not earlier:
        return
    number = 1
    while (output / f"earlier-{number}").exists():
        number += 1
    backup = output / f"earlier-{number}"
    backup.mkdir()
    for path in earlier:
        shutil.move(path, backup / path.name)
    _LOG.warning("%s contained earlier results; they were moved to %s", output, backup)


def read_metrics(output: Path) -> dict[str, Any] | None:
    """Return the content of a run's metrics.json; None if it has none."""
    path = output / "metrics.json"
    metrics: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return metrics


class RunLog:
    """Buffers log messages from the start, so that log.txt includes those logged before the run folder existed.

    A context manager: the file ends with the run, and has the traceback of an error that ends it.
    """

    def __init__(self) -> None:
        self.memory = logging.handlers.MemoryHandler(100_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.DEBUG)
            logging.getLogger(name).addHandler(self.memory)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self.file: logging.FileHandler | None = None

    def write_to(self, path: Path) -> None:
        """Write the buffered messages, and all later ones, to a file."""
        self.file = logging.FileHandler(path, encoding="utf-8")
        self.file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.memory.setTarget(self.file)
        self.memory.flush()
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self.memory)
            logging.getLogger(name).addHandler(self.file)

    def close(self) -> None:
        """Close the file."""
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self.memory)
            if self.file is not None:
                logging.getLogger(name).removeHandler(self.file)
        if self.file is not None:
            with contextlib.suppress(OSError):  # a full disk, of which the run's error tells
                self.file.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, Exception):
            _LOG.debug("the error's traceback", exc_info=error)
        self.close()


def write_comparisons(
    records: Annotations, read: Callable[[str], NDArray[np.uint8]], results: Sequence[dict[str, Any]], folder: Path
) -> None:
    """Draw the first images with ground truth on the left and detections on the right, and a contact sheet, all.png."""
    folder.mkdir(exist_ok=True)
    label_of = {c: k for k, c in enumerate(records.category_ids, 1)}
    pairs = []
    for i in range(min(_MAX_IMAGES, len(records))):
        image, scale = _downscale(read(records.files[i]))
        objects = records.objects(i)
        ground_truth = BoxAnnotations((records.boxes[objects] * scale).tolist(), records.labels[objects].tolist())
        rows = [d for d in results if d["image_id"] == records.image_ids[i] and d["score"] >= _MIN_SCORE]
        rows.sort(key=lambda d: -d["score"])
        boxes = [[scale * v for v in (x, y, x + w, y + h)] for x, y, w, h in (d["bbox"] for d in rows)]
        detections = BoxAnnotations(boxes, [label_of[d["category_id"]] for d in rows], [d["score"] for d in rows])
        left, right = draw(image, ground_truth, records.classes), draw(image, detections, records.classes)
        pairs.append(side_by_side(left, right, ("ground truth", f"detections (score at least {_MIN_SCORE})")))
        Image.fromarray(pairs[-1]).save(folder / f"{i:02d}.png")
    Image.fromarray(contact_sheet(pairs, columns=2)).save(folder / "all.png")
    _LOG.info("images with ground truth and detections side by side are in %s (all.png has them together)", folder)


def _downscale(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Resize an image to at most 640 px on its long side; return it and the scale."""
    scale = min(_MAX_SIDE / max(image.shape[:2]), 1.0)
    if scale == 1.0:
        return image, 1.0
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)), scale
