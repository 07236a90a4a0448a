"""Benchmark the COCO metrics against pycocotools, and faster-coco-eval where it is installed: 5,000 images, 80 classes and
100 detections per image, as on val2017."""

import argparse
import contextlib
import copy
import importlib.util
import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.machine import machine
from detection.evaluation.coco import NAMES, coco_metrics
from detection.evaluation.report import evaluate

IMAGES, CLASSES, OBJECTS, DETECTIONS = 5000, 80, 7.3, 100


def run(args: argparse.Namespace) -> int:
    ground_truth, detections = random_data(np.random.default_rng(0))
    print(f"{machine()}\n{IMAGES} images, {len(ground_truth['annotations'])} objects, {len(detections)} detections\n")
    functions: dict[str, Callable[..., Any]] = {"COCO metrics": coco_metrics, "full report with VOC mAP": evaluate}
    if importlib.util.find_spec("faster_coco_eval"):
        functions["faster-coco-eval"] = faster_coco_eval
    functions["pycocotools"] = pycocotools
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    max_difference = 0.0
    for repetition in range(args.repeat):
        results = {}
        for name, function in functions.items():
            start = time.perf_counter()
            results[name] = function(ground_truth, detections)
            seconds[name].append(time.perf_counter() - start)
            print(f"{repetition + 1}  {name:32} {seconds[name][-1]:7.2f} s", flush=True)
        own = results["COCO metrics"][0]
        differences = [abs((own[n] or 0) - value) for n, value in zip(NAMES, results["pycocotools"], strict=True)]
        max_difference = max(max_difference, *differences)
    *own_times, peer_times = seconds.values()
    print("\n| | seconds (median) | fraction of pycocotools' time (pairs) |\n|---|---|---|")
    for name, times in zip(seconds, own_times, strict=False):
        fraction = statistics.median(a / b for a, b in zip(times, peer_times, strict=True))
        print(f"| {name} | {statistics.median(times):.2f} | {fraction:.3f} |")
    print(f"| pycocotools | {statistics.median(peer_times):.2f} | 1 |")
    print(f"\nmaximum difference of the twelve metrics: {max_difference:.1e}")
    return 0


def random_data(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return random COCO annotations and results, 60% of them near an object."""
    images = [{"id": i + 1, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in range(IMAGES)]
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image in images:
        count = int(rng.poisson(OBJECTS))
        size = rng.uniform(8, 200, (count, 2))
        boxes = np.concatenate((rng.uniform(0, 1, (count, 2)) * ([640, 480] - size), size), axis=1)
        classes, crowd = rng.integers(1, CLASSES + 1, count), rng.random(count) < 0.01
        for box, label, is_crowd in zip(boxes.tolist(), classes.tolist(), crowd.tolist(), strict=True):
            ids = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": label, "iscrowd": int(is_crowd)}
            annotations.append({**ids, "bbox": box, "area": box[2] * box[3]})
        predicted = np.concatenate((rng.uniform(0, 400, (DETECTIONS, 2)), rng.uniform(8, 200, (DETECTIONS, 2))), axis=1)
        labels = rng.integers(1, CLASSES + 1, DETECTIONS)
        if count:
            matched = rng.integers(0, count, 3 * DETECTIONS // 5)
            predicted[: len(matched)] = boxes[matched]
            predicted[: len(matched), :2] += rng.normal(0, 5, (len(matched), 2))
            predicted[: len(matched), 2:] *= np.exp(rng.normal(0, 0.15, (len(matched), 2)))
            correct = rng.random(len(matched)) < 0.7
            labels[: len(matched)][correct] = classes[matched][correct]
        for box, label, score in zip(predicted.tolist(), labels.tolist(), rng.random(DETECTIONS).tolist(), strict=True):
            detections.append({"image_id": image["id"], "category_id": label, "bbox": box, "score": score})
    categories = [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def faster_coco_eval(ground_truth: dict[str, Any], detections: list[dict[str, Any]]) -> Any:
    """Return faster-coco-eval's metrics."""
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        coco_gt = COCO(copy.deepcopy(ground_truth))
        coco_eval = COCOeval_faster(coco_gt, coco_gt.loadRes([dict(d) for d in detections]), "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval.stats


def pycocotools(ground_truth: dict[str, Any], detections: list[dict[str, Any]]) -> Any:
    """Return pycocotools' twelve metrics."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco_gt = COCO()
        coco_gt.dataset = copy.deepcopy(ground_truth)
        coco_gt.createIndex()
        coco_dt = coco_gt.loadRes([dict(d) for d in detections])
        coco_eval = COCOeval(coco_gt, coco_dt, "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    return coco_eval.stats
