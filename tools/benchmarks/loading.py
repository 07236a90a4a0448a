"""Benchmark data loading: reading annotations of the size of train2017, and DataLoader throughput (decode, resize, flip)
against detectron2's and torchvision's loaders, where they are installed."""

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

IMAGES, OBJECTS = 118_287, 860_001  # as train2017
SHORT, LONG, BATCH = 800, 1333, 2


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RESDET_CACHE"] = str(Path(folder) / "cache")
        print(machine())
        time_annotations(Path(folder) / "large", args.repeat)
        time_loaders(Path(folder) / "small", args)
    return 0


def time_annotations(root: Path, repeat: int) -> None:
    """Time reading a large JSON file: without cache, with cache, and with pycocotools, as the peers do at every start."""
    write_coco(root, IMAGES, OBJECTS, lambda path: path.touch())
    start = time.perf_counter()
    read_coco(root, "train")
    uncached = time.perf_counter() - start
    cached, peer = [], []
    for _ in range(repeat):
        start = time.perf_counter()
        read_coco(root, "train")
        cached.append(time.perf_counter() - start)
        start = time.perf_counter()
        coco = COCO(str(root / "annotations" / "instances_train.json"))
        coco.loadAnns(coco.getAnnIds())
        peer.append(time.perf_counter() - start)
    print(f"\nannotations of {IMAGES} images with {OBJECTS} objects, seconds (median)\n\n| | seconds |\n|---|---|")
    print(f"| resdet, not cached | {uncached:.2f} |\n| resdet, cached | {statistics.median(cached):.2f} |")
    print(f"| pycocotools | {statistics.median(peer):.2f} |", flush=True)


def time_loaders(root: Path, args: argparse.Namespace) -> None:
    """Measure the images per second of each loader with ``--workers`` workers."""
    rng = np.random.default_rng(0)

    def write_jpeg(path: Path) -> None:
        small = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((640, 480), Image.BICUBIC)
        noise = rng.normal(0, 6, (480, 640, 3))
        Image.fromarray((np.asarray(small) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)

    write_coco(root, args.pictures, 7 * args.pictures, write_jpeg)
    loaders: dict[str, Callable[[Path, int], Iterator[Any]]] = {"resdet": resdet}
    if importlib.util.find_spec("detectron2"):
        loaders["detectron2"] = detectron2
    loaders["torchvision"] = torchvision
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(args.repeat):
        for name, loader in loaders.items():
            batches = loader(root, args.workers)
            count = 0
            for _ in range(4):  # warm-up of the workers
                next(batches)
            start = time.perf_counter()
            while count < args.pictures:
                next(batches)
                count += BATCH
            rates[name].append(count / (time.perf_counter() - start))
            del batches
    print(f"\nimages of 640x480 resized to {SHORT}, {args.workers} workers\n")
    print("| | images per second (median) | resdet / this |\n|---|---|---|")
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates["resdet"], values, strict=True))
        print(f"| {name} | {statistics.median(values):.1f} | {ratio:.2f} |")


def write_coco(root: Path, images: int, objects: int, write_image: Callable[[Path], None]) -> None:
    """Write a COCO folder with random boxes; ``write_image`` writes each image file."""
    rng = np.random.default_rng(1)
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    names = [f"{i:012d}.jpg" for i in range(1, images + 1)]
    for name in names:
        write_image(root / "train" / name)
    corner, size = (
        rng.uniform(0, 300, (objects, 2)).round(2).tolist(),
        rng.uniform(10, 150, (objects, 2)).round(2).tolist(),
    )
    image, label = rng.integers(1, images + 1, objects).tolist(), rng.integers(1, 81, objects).tolist()
    content = {
        "images": [{"id": i, "file_name": n, "width": 640, "height": 480} for i, n in enumerate(names, 1)],
        "annotations": [
            {"id": i, "image_id": k, "category_id": c, "bbox": [*xy, *wh], "area": wh[0] * wh[1], "iscrowd": 0}
            # a polygon as in COCO, which is most of the file size
            | {
                "segmentation": [
                    [round(xy[0] + wh[0] * t, 2) for t in (0, 0.2, 0.5, 0.8, 1, 0.8, 0.5, 0.2) for _ in (0, 1)]
                ]
            }
            for i, (k, c, xy, wh) in enumerate(zip(image, label, corner, size, strict=True), 1)
        ],
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, 81)],
    }
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content), encoding="utf-8")


def resdet(root: Path, workers: int) -> Iterator[Any]:
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
    transforms = [T.ResizeShortestEdge((SHORT,), LONG, sample_style="choice"), T.RandomFlip()]
    mapper = DatasetMapper(is_train=True, augmentations=transforms, image_format="BGR")
    return iter(build_detection_train_loader(rows, mapper=mapper, total_batch_size=BATCH, num_workers=workers))


def torchvision(root: Path, workers: int) -> Iterator[Any]:
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.transforms import v2

    resize = v2.RandomShortestSize((SHORT,), LONG)
    transforms = v2.Compose([v2.ToImage(), resize, v2.RandomHorizontalFlip(), v2.SanitizeBoundingBoxes()])
    annotations = str(root / "annotations" / "instances_train.json")
    data = CocoDetection(str(root / "train"), annotations, transforms=transforms)
    data = wrap_dataset_for_transforms_v2(data, target_keys=("boxes", "labels"))
    sampler = torch.utils.data.RandomSampler(data, replacement=True, num_samples=10**9)
    loader = torch.utils.data.DataLoader(data, BATCH, sampler=sampler, num_workers=workers, collate_fn=list)
    return iter(loader)
