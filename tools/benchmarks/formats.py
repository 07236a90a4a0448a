"""Benchmark reading annotations of one size in several formats, not cached and cached: COCO's JSON, YOLO's text files, VOC's
XML. Image files are one small JPEG, linked: their headers are read, their pixels are not.

CPU time is printed beside wall time: the ratio of the former is what a busy machine leaves alone.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import machine
from detection.data.annotations import Annotations
from detection.data.coco import read_coco
from detection.data.readers.yolo import read_yolo
from detection.data.voc import read_voc

IMAGES, OBJECTS = 118_287, 860_001  # as train2017
XMLS, XML_OBJECTS = 20_000, 60_000
SIZE = (640, 480)
_LINKS = 30_000  # of one file: ext4 has 65,000 at most


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ["RESDET_CACHE"] = str(root / "cache")
        print(machine())
        boxes, images = random_boxes(args.images or IMAGES, args.objects or OBJECTS)
        names = [f"{i:012d}" for i in range(1, (args.images or IMAGES) + 1)]
        link_images(root / "images", names, root)
        write_coco(root, names, boxes, images)
        write_yolo(root, names, boxes, images)
        (root / "coco" / "train").symlink_to(root / "images")
        (root / "yolo" / "images").symlink_to(root / "images")
        small = names[: min(len(names), XMLS)]
        write_voc(root / "voc", small, *random_boxes(len(small), XML_OBJECTS * len(small) // XMLS))
        (root / "voc" / "JPEGImages").symlink_to(root / "images")
        print(f"\n{len(names)} images with {len(boxes)} objects (VOC: {len(small)} images)\n")
        print("| | seconds | of CPU | cached: seconds | of CPU | CPU / COCO's |\n|---|---|---|---|---|---|")
        readers: dict[str, Callable[[], Annotations]] = {
            "COCO": lambda: read_coco(root / "coco", "train"),
            "YOLO": lambda: read_yolo(root / "yolo", "."),
            "VOC": lambda: read_voc(root / "voc", "train"),
        }
        base = 0.0
        for name, read in readers.items():
            cold, cold_cpu = timed(read)
            warm = sorted(timed(read) for _ in range(args.repeat))[args.repeat // 2]
            base = base or cold_cpu
            print(
                f"| {name} | {cold:.1f} | {cold_cpu:.1f} | {warm[0]:.1f} | {warm[1]:.1f} | {cold_cpu / base:.2f} |",
                flush=True,
            )
    return 0


def timed(read: Callable[[], Annotations]) -> tuple[float, float]:
    """Return wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    read()
    return time.perf_counter() - wall, time.process_time() - cpu


def random_boxes(images: int, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes xywh [objects, 4] with two decimals, and the image of each."""
    rng = np.random.default_rng(1)
    boxes = np.concatenate((rng.uniform(0, 300, (objects, 2)), rng.uniform(10, 150, (objects, 2))), axis=1).round(2)
    return boxes, np.sort(rng.integers(0, images, objects))


def link_images(folder: Path, names: list[str], scratch: Path) -> None:
    """Make the images: links to one JPEG of 640x480, whose content does not matter."""
    folder.mkdir()
    for k, name in enumerate(names):
        if k % _LINKS == 0:
            source = scratch / f"{k}.jpg"
            Image.new("RGB", SIZE).save(source)
        os.link(source, folder / f"{name}.jpg")


def write_coco(root: Path, names: list[str], boxes: np.ndarray, images: np.ndarray) -> None:
    """Write instances_train.json, with polygons as in COCO, which are most of its size."""
    (root / "coco" / "annotations").mkdir(parents=True)
    shape = np.array([0, 0, 0.2, 0.2, 0.5, 0.5, 0.8, 0.8, 1, 1, 0.8, 0.8, 0.5, 0.5, 0.2, 0.2])
    polygons = (np.tile(boxes[:, :2], 8) + np.tile(boxes[:, 2:], 8) * shape).round(2).tolist()
    content = {
        "images": [{"id": i, "file_name": f"{n}.jpg", "width": 640, "height": 480} for i, n in enumerate(names, 1)],
        "annotations": [
            {"id": j, "image_id": i + 1, "category_id": 1 + j % 80, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            | {"segmentation": [polygon]}
            for j, (i, box, polygon) in enumerate(zip(images.tolist(), boxes.tolist(), polygons, strict=True), 1)
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, 81)],
    }
    (root / "coco" / "annotations" / "instances_train.json").write_text(json.dumps(content), encoding="utf-8")


def write_yolo(root: Path, names: list[str], boxes: np.ndarray, images: np.ndarray) -> None:
    """Write a text file an image, with six decimals as most tools do."""
    (root / "yolo" / "labels").mkdir(parents=True)
    sides = np.array([*SIZE, *SIZE])
    centred = np.concatenate((boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]), axis=1) / sides
    rows: list[list[str]] = [[] for _ in names]
    for j, (i, (x, y, w, h)) in enumerate(zip(images.tolist(), centred.tolist(), strict=True), 1):
        rows[i].append(f"{j % 80} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n")
    for name, lines in zip(names, rows, strict=True):
        (root / "yolo" / "labels" / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    classes = "".join(f"  {k}: class {k + 1}\n" for k in range(80))
    (root / "yolo" / "data.yaml").write_text(f"names:\n{classes}", encoding="utf-8")


def write_voc(root: Path, names: list[str], boxes: np.ndarray, images: np.ndarray) -> None:
    """Write an XML file an image, and the image set train."""
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    objects: list[list[str]] = [[] for _ in names]
    for j, (i, (x, y, w, h)) in enumerate(zip(images.tolist(), boxes.astype(int).tolist(), strict=True)):
        objects[i].append(
            f"<object><name>class {j % 20}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
            f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        )
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    for name, lines in zip(names, objects, strict=True):
        text = f"<annotation><filename>{name}.jpg</filename>{size}{''.join(lines)}</annotation>"
        (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
