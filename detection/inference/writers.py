"""What ``resdet predict`` writes of detections: COCO, YOLO, VOC, CSV or JSON lines. Each file is written whole, and none is
replaced."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

from detection.inference.detections import Detections
from detection.inference.sources import Frame
from detection.utils.atomic_io import write_json, write_text

COLUMNS = ("file", "frame", "seconds", "class", "category_id", "score", "x1", "y1", "x2", "y2")


class Writer(Protocol):
    """Takes frames with their detections, one after another."""

    def add(self, frame: Frame, detections: Detections, name: str) -> None:
        """Take a frame; ``name`` is a stem that no other frame of the run has."""

    def finish(self) -> list[str]:
        """Write what is left; return the names of all files, relative to the folder."""


class CocoWriter:
    """detections.json: COCO annotations with scores, and the images; for videos each frame is an image."""

    def __init__(self, folder: Path, classes: Sequence[str], category_ids: Sequence[int]) -> None:
        self.path = folder / "detections.json"
        self.categories = [{"id": i, "name": n} for i, n in zip(category_ids, classes, strict=True)]
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, frame: Frame, detections: Detections, name: str) -> None:
        assert frame.image is not None
        image_id = len(self.images) + 1
        height, width = frame.image.shape[:2]
        row: dict[str, Any] = {"id": image_id, "file_name": frame.source, "height": height, "width": width}
        self.images.append(row if frame.index is None else row | {"frame": frame.index, "seconds": frame.seconds})
        for result in detections.to_coco(image_id):
            area = result["bbox"][2] * result["bbox"][3]
            self.annotations.append({"id": len(self.annotations) + 1, **result, "area": area, "iscrowd": 0})

    def finish(self, drawn: Sequence[str] = ()) -> list[str]:
        content = {"images": self.images, "annotations": self.annotations, "categories": self.categories}
        write_json(self.path, content | {"drawn": list(drawn)}, indent=None)
        return [self.path.name]


class YoloWriter:
    """labels/NAME.txt: a line "class x y width height score" a detection, zero-based class, box centre and size as
    fractions; and classes.txt."""

    def __init__(self, folder: Path, classes: Sequence[str], category_ids: Sequence[int]) -> None:
        self.folder, self.classes = folder, classes
        (folder / "labels").mkdir()

    def add(self, frame: Frame, detections: Detections, name: str) -> None:
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        lines = [
            f"{label - 1} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} "
            f"{(y2 - y1) / height:.6f} {score:.6f}\n"
            for (x1, y1, x2, y2), label, score in _rows(detections)
        ]
        write_text(self.folder / "labels" / f"{name}.txt", "".join(lines))

    def finish(self) -> list[str]:
        write_text(self.folder / "classes.txt", "".join(f"{name}\n" for name in self.classes))
        return ["labels", "classes.txt"]


class VocWriter:
    """annotations/NAME.xml: PASCAL VOC's, one-based corners, inclusive and whole, with a score."""

    def __init__(self, folder: Path, classes: Sequence[str], category_ids: Sequence[int]) -> None:
        self.folder, self.classes = folder, classes
        (folder / "annotations").mkdir()

    def add(self, frame: Frame, detections: Detections, name: str) -> None:
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = frame.source
        size = ElementTree.SubElement(root, "size")
        for key, value in (("width", width), ("height", height), ("depth", 3)):
            ElementTree.SubElement(size, key).text = str(value)
        for (x1, y1, x2, y2), label, score in _rows(detections):
            item = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(item, "name").text = self.classes[label - 1]
            ElementTree.SubElement(item, "difficult").text = "0"
            ElementTree.SubElement(item, "score").text = f"{score:.6f}"
            box = ElementTree.SubElement(item, "bndbox")
            corners = (("xmin", x1 + 1), ("ymin", y1 + 1), ("xmax", max(x2, x1 + 1)), ("ymax", max(y2, y1 + 1)))
            for key, corner in corners:
                ElementTree.SubElement(box, key).text = str(round(corner))
        ElementTree.indent(root)
        write_text(self.folder / "annotations" / f"{name}.xml", ElementTree.tostring(root, encoding="unicode") + "\n")

    def finish(self) -> list[str]:
        return ["annotations"]


class CsvWriter:
    """detections.csv: a row a detection, with the header :data:`COLUMNS`."""

    def __init__(self, folder: Path, classes: Sequence[str], category_ids: Sequence[int]) -> None:
        self.path, self.classes, self.category_ids = folder / "detections.csv", classes, category_ids
        self.text = io.StringIO(newline="")
        self.rows = csv.writer(self.text, lineterminator="\n")
        self.rows.writerow(COLUMNS)

    def add(self, frame: Frame, detections: Detections, name: str) -> None:
        index = "" if frame.index is None else frame.index
        seconds = "" if frame.seconds is None else f"{frame.seconds:.3f}"
        for box, label, score in _rows(detections):
            names = (self.classes[label - 1], self.category_ids[label - 1])
            self.rows.writerow(
                [
                    _plain(frame.source),
                    index,
                    seconds,
                    _plain(names[0]),
                    names[1],
                    f"{score:.6f}",
                    *(f"{x:.2f}" for x in box),
                ]
            )

    def finish(self) -> list[str]:
        write_text(self.path, self.text.getvalue())
        return [self.path.name]


def _plain(text: str) -> str:
    """Return a text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) and len(text) > 1 else text


class JsonLinesWriter:
    """detections.jsonl: an object an image or frame, with its detections."""

    def __init__(self, folder: Path, classes: Sequence[str], category_ids: Sequence[int]) -> None:
        self.path, self.classes, self.category_ids = folder / "detections.jsonl", classes, category_ids
        self.lines: list[str] = []

    def add(self, frame: Frame, detections: Detections, name: str) -> None:
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        row: dict[str, Any] = {"file": frame.source, "height": height, "width": width}
        if frame.index is not None:
            row |= {"frame": frame.index, "seconds": frame.seconds}
        self.lines.append(json.dumps(row | {"detections": as_objects(detections)}) + "\n")

    def finish(self) -> list[str]:
        write_text(self.path, "".join(self.lines))
        return [self.path.name]


def as_objects(detections: Detections) -> list[dict[str, Any]]:
    """Return detections as plain values: class, category_id, score, and box [x1, y1, x2, y2] in pixels."""
    return [
        {
            "class": detections.classes[label - 1],
            "category_id": detections.category_ids[label - 1],
            "score": round(score, 6),
            "box": [round(value, 3) for value in box],
        }
        for box, label, score in _rows(detections)
    ]


def _rows(detections: Detections) -> list[tuple[list[float], int, float]]:
    boxes, labels, scores = detections.boxes.tolist(), detections.labels.tolist(), detections.scores.tolist()
    return list(zip(boxes, labels, scores, strict=True))


WRITERS: dict[str, Callable[[Path, Sequence[str], Sequence[int]], Writer]] = {
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "voc": VocWriter,
    "csv": CsvWriter,
    "jsonl": JsonLinesWriter,
}
