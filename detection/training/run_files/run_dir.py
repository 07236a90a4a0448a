"""The folder of a run: what lies in it, how earlier files are kept, its log and its pictures."""

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
_PICTURES, _DRAWN_SCORE, _DRAWN_SIDE = 8, 0.5, 640


def move_earlier_run(output: Path, names: Iterable[str]) -> None:
    """Makes the folder; files of an earlier run with these names go to a subfolder, nothing is overwritten."""
    output.mkdir(parents=True, exist_ok=True)
    earlier = [output / name for name in names if (output / name).exists()]
    if not earlier:
        return
    number = 1
    while (output / f"earlier-{number}").exists():
        number += 1
    aside = output / f"earlier-{number}"
    aside.mkdir()
    for path in earlier:
        shutil.move(path, aside / path.name)
    _LOG.warning("%s held results already; they are now in %s", output, aside)


class RunLog:
    """Keeps messages from the start on, so that log.txt has also those from before there was a folder for it."""

    def __init__(self) -> None:
        self.memory = logging.handlers.MemoryHandler(100_000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.DEBUG)
            logging.getLogger(name).addHandler(self.memory)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        self.file: logging.FileHandler | None = None

    def write_to(self, path: Path) -> None:
        """Writes what was kept, and from now on everything, to a file."""
        self.file = logging.FileHandler(path, encoding="utf-8")
        self.file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self.memory.setTarget(self.file)
        self.memory.flush()
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self.memory)
            logging.getLogger(name).addHandler(self.file)

    def close(self) -> None:
        """Ends the file. A run that fails leaves it open until the process ends, for the error's traceback."""
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self.memory)
            if self.file is not None:
                logging.getLogger(name).removeHandler(self.file)
        if self.file is not None:
            self.file.close()


def write_pictures(
    records: Annotations, read: Callable[[str], NDArray[np.uint8]], results: Sequence[dict[str, Any]], folder: Path
) -> None:
    """The first pictures with the truth on the left and the detections on the right, and a sheet of them, all.png."""
    folder.mkdir(exist_ok=True)
    label_of = {c: k for k, c in enumerate(records.category_ids, 1)}
    sheets = []
    for i in range(min(_PICTURES, len(records))):
        picture, scale = _shown(read(records.files[i]))
        where = records.objects(i)
        truth = BoxAnnotations((records.boxes[where] * scale).tolist(), records.labels[where].tolist())
        mine = [d for d in results if d["image_id"] == records.image_ids[i] and d["score"] >= _DRAWN_SCORE]
        mine.sort(key=lambda d: -d["score"])
        boxes = [[scale * v for v in (x, y, x + w, y + h)] for x, y, w, h in (d["bbox"] for d in mine)]
        found = BoxAnnotations(boxes, [label_of[d["category_id"]] for d in mine], [d["score"] for d in mine])
        left, right = draw(picture, truth, records.classes), draw(picture, found, records.classes)
        sheets.append(side_by_side(left, right, ("truth", f"detections (score at least {_DRAWN_SCORE})")))
        Image.fromarray(sheets[-1]).save(folder / f"{i:02d}.png")
    Image.fromarray(contact_sheet(sheets, columns=2)).save(folder / "all.png")
    _LOG.info("pictures of the truth beside the detections are in %s (all.png has them together)", folder)


def _shown(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """A picture small enough for a sheet, and how much smaller it is."""
    scale = min(_DRAWN_SIDE / max(picture.shape[:2]), 1.0)
    if scale == 1.0:
        return picture, 1.0
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)), scale
