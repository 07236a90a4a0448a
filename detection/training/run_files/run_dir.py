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
from detection.evaluation.visualize import BoxAnnotations, contact_sheet, displayable, draw, side_by_side
from detection.utils.atomic_io import replacing
from detection.utils.errors import optional

_LOG = logging.getLogger(__name__)
EVALUATION_FILES = ("metrics.json", "per_class.csv", "detections.json", "ground_truth.json", "pictures", "report.html")
TRAINING_FILES = (
    *(
        "config.yaml",
        "run.json",
        "dataset.json",
        "split.json",
        "metrics.jsonl",
        "metrics.csv",
        "log.txt",
        "tensorboard",
    ),
    *("last.pth", "previous.pth", "best.pth", "last.pth.damaged", "previous.pth.damaged"),
    *("not_finite.pth", "not_finite-*.pth"),  # of rank 0, and of the others
)
RUN_FILES = (*EVALUATION_FILES, *TRAINING_FILES)
_LOGGERS, _LIGHTNING = ("detection", "backbone"), "lightning.pytorch"
_MAX_IMAGES, _MIN_SCORE, _MAX_SIDE = 8, 0.5, 640


def move_earlier_run(output: Path, names: Iterable[str]) -> None:
    """Create the folder and move an earlier run's files to a subfolder earlier-N; overwrite nothing.

    Args:
        output: the folder.
        names: of the files, or patterns of them.
    """
    output.mkdir(parents=True, exist_ok=True)
    earlier = [path for name in names for path in sorted(output.glob(name))]
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
    metrics: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    return metrics


class RunLog:
    """Buffers log messages from the start, so that log.txt includes those logged before the run folder existed.

    A context manager: the file ends with the run, and has the traceback of an error that ends it.
    """

    def __init__(self) -> None:
        self.memory = logging.handlers.MemoryHandler(100_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        self.levels = {name: logging.getLogger(name).level for name in (*_LOGGERS, _LIGHTNING)}
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.DEBUG)
            logging.getLogger(name).addHandler(self.memory)
        logging.getLogger(_LIGHTNING).setLevel(logging.ERROR)
        self.file: logging.FileHandler | None = None

    def write_to(self, path: Path) -> None:
        """Write the buffered messages, and all later ones, to a file."""
        self.file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        self.file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.memory.setTarget(self.file)
        self.memory.flush()
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self.memory)
            logging.getLogger(name).addHandler(self.file)

    def close(self) -> None:
        """Close the file, and give the loggers the levels that they had."""
        for name, level in self.levels.items():
            logging.getLogger(name).setLevel(level)
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
    """Draw the first images with ground truth on the left and detections on the right, and a contact sheet, all.png.

    An image that cannot be read or drawn is left out, with a warning; nothing is raised.
    """
    pairs = []
    with optional(folder):
        folder.mkdir(exist_ok=True)
        for i in range(min(_MAX_IMAGES, len(records))):
            with optional(records.files[i]):
                pairs.append(_comparison(records, i, displayable(read(records.files[i])), results))
                _save_image(pairs[-1], folder / f"{i:02d}.png")
        if pairs:
            _save_image(contact_sheet(pairs, columns=2), folder / "all.png")
            _LOG.info(
                "images with ground truth and detections side by side are in %s (all.png has them together)", folder
            )


def _comparison(
    records: Annotations, i: int, pixels: NDArray[np.uint8], results: Sequence[dict[str, Any]]
) -> NDArray[np.uint8]:
    """Return image i with its ground truth, and beside it with its detections."""
    image, scale = _downscale(pixels)
    label_of = {c: k for k, c in enumerate(records.category_ids, 1)}
    objects = records.objects(i)
    ground_truth = BoxAnnotations((records.boxes[objects] * scale).tolist(), records.labels[objects].tolist())
    rows = [d for d in results if d["image_id"] == records.image_ids[i] and d["score"] >= _MIN_SCORE]
    rows.sort(key=lambda d: -d["score"])
    boxes = [[scale * v for v in (x, y, x + w, y + h)] for x, y, w, h in (d["bbox"] for d in rows)]
    detections = BoxAnnotations(boxes, [label_of[d["category_id"]] for d in rows], [d["score"] for d in rows])
    left, right = draw(image, ground_truth, records.classes), draw(image, detections, records.classes)
    return side_by_side(left, right, ("ground truth", f"detections (score at least {_MIN_SCORE})"))


def _save_image(image: NDArray[np.uint8], path: Path) -> None:
    with replacing(path) as part:
        Image.fromarray(image).save(part, "PNG")


def _downscale(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Resize an image to at most 640 px on its long side, and at least one on its short side; return it and the scale."""
    scale = min(_MAX_SIDE / max(image.shape[:2]), 1.0)
    if scale == 1.0:
        return image, 1.0
    size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)), scale
