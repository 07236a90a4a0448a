"""From files to batches: opening annotations as large as train2017's, and pictures decoded, resized and mirrored by worker
processes, beside detectron2's and torchvision's loaders where they are installed."""

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO

from benchmarks.machine import machine
from detection.config import DataConfig
from detection.data.coco import read_coco
from detection.data.image import read_image
from detection.data.loader import TrainSet, train_loader

IMAGES, OBJECTS = 118_287, 860_001  # train2017's
SHORT, LONG, BATCH = 800, 1333, 2


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RESDET_CACHE"] = str(Path(folder) / "cache")
        print(machine())
        annotations(Path(folder) / "large", args.repeat)
        pictures(Path(folder) / "small", args)
    return 0


def annotations(root: Path, repeat: int) -> None:
    """Opening a large JSON: the first time, later times, and pycocotools, as the peers open it at every start."""
    write(root, IMAGES, OBJECTS, lambda path: path.touch())
    began = time.perf_counter()
    read_coco(root, "train")
    first = time.perf_counter() - began
    later, theirs = [], []
    for _ in range(repeat):
        began = time.perf_counter()
        read_coco(root, "train")
        later.append(time.perf_counter() - began)
        began = time.perf_counter()
        coco = COCO(str(root / "annotations" / "instances_train.json"))
        coco.loadAnns(coco.getAnnIds())
        theirs.append(time.perf_counter() - began)
    print(f"\nannotations of {IMAGES} pictures with {OBJECTS} objects, seconds (median)\n\n| | seconds |\n|---|---|")
    print(f"| resdet, the first time | {first:.2f} |\n| resdet, later | {statistics.median(later):.2f} |")
    print(f"| pycocotools | {statistics.median(theirs):.2f} |", flush=True)


def pictures(root: Path, args: argparse.Namespace) -> None:
    """Pictures a second, by ``--workers`` processes."""
    rng = np.random.default_rng(0)

    def draw(path: Path) -> None:
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((640, 480), Image.BICUBIC)
        noise = rng.normal(0, 6, (480, 640, 3))
        Image.fromarray((np.asarray(small) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)

    write(root, args.pictures, 7 * args.pictures, draw)
    sources: dict[str, Callable[[Path, int], Iterator[Any]]] = {"resdet": ours}
    if importlib.util.find_spec("detectron2"):
        sources["detectron2"] = detectron2
    sources["torchvision"] = torchvision
    rates: dict[str, list[float]] = {name: [] for name in sources}
    for _ in range(args.repeat):
        for name, source in sources.items():
            batches = source(root, args.workers)
            seen = 0
            for _ in range(4):  # the workers' start
                next(batches)
            began = time.perf_counter()
            while seen < args.pictures:
                next(batches)
                seen += BATCH
            rates[name].append(seen / (time.perf_counter() - began))
            del batches
    print(f"\npictures of 640x480 seen at {SHORT}, {args.workers} workers\n")
    print("| | a second (median) | resdet's is |\n|---|---|---|")
    for name, own in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates["resdet"], own, strict=True))
        print(f"| {name} | {statistics.median(own):.1f} | {ratio:.2f} times as fast |")


def write(root: Path, images: int, objects: int, draw: Callable[[Path], None]) -> None:
    """A COCO folder: boxes at random, pictures as ``draw`` makes them."""
    rng = np.random.default_rng(1)
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    names = [f"{i:012d}.jpg" for i in range(1, images + 1)]
    for name in names:
        draw(root / "train" / name)
    corner, size = (
        rng.uniform(0, 300, (objects, 2)).round(2).tolist(),
        rng.uniform(10, 150, (objects, 2)).round(2).tolist(),
    )
    image, label = rng.integers(1, images + 1, objects).tolist(), rng.integers(1, 81, objects).tolist()
    content = {
        "images": [{"id": i, "file_name": n, "width": 640, "height": 480} for i, n in enumerate(names, 1)],
        "annotations": [
            {"id": i, "image_id": k, "category_id": c, "bbox": [*xy, *wh], "area": wh[0] * wh[1], "iscrowd": 0}
            # an outline as COCO's have it: most of the file is these
            | {
                "segmentation": [
                    [round(xy[0] + wh[0] * t, 2) for t in (0, 0.2, 0.5, 0.8, 1, 0.8, 0.5, 0.2) for _ in (0, 1)]
                ]
            }
            for i, (k, c, xy, wh) in enumerate(zip(image, label, corner, size, strict=True), 1)
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, 81)],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))


def ours(root: Path, workers: int) -> Iterator[Any]:
    records = read_coco(root, "train")
    config = DataConfig(short_side=(SHORT,), max_side=LONG, workers=workers)
    dataset = TrainSet(records, read_image, config, seed=0)
    pin = torch.cuda.is_available()
    return iter(train_loader(dataset, BATCH, micro_batches=1, rank=0, world=1, seed=0, start=0, pin=pin))


def detectron2(root: Path, workers: int) -> Iterator[Any]:
    from detectron2.data import DatasetMapper, build_detection_train_loader
    from detectron2.data import transforms as T
    from detectron2.data.datasets import load_coco_json

    rows = load_coco_json(str(root / "annotations" / "instances_train.json"), str(root / "train"))
    steps = [T.ResizeShortestEdge((SHORT,), LONG, sample_style="choice"), T.RandomFlip()]
    mapper = DatasetMapper(is_train=True, augmentations=steps, image_format="BGR")
    return iter(build_detection_train_loader(rows, mapper=mapper, total_batch_size=BATCH, num_workers=workers))


def torchvision(root: Path, workers: int) -> Iterator[Any]:
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    steps = [v2.ToImage(), v2.RandomShortestSize((SHORT,), LONG), v2.RandomHorizontalFlip(), v2.SanitizeBoundingBoxes()]
    annotations = str(root / "annotations" / "instances_train.json")
    data = CocoDetection(str(root / "train"), annotations, transforms=v2.Compose(steps))
    data = wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels"))
    forever = torch.utils.data.RandomSampler(data, replacement=True, num_samples=10**9)
    loader = torch.utils.data.DataLoader(data, BATCH, sampler=forever, num_workers=workers, collate_fn=list)
    return iter(loader)
