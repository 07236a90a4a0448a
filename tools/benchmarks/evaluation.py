"""COCO's numbers of 5,000 pictures and 80 classes, as large as val2017 with 100 detections a picture, beside pycocotools."""

import argparse
import contextlib
import copy
import io
import statistics
import time
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.machine import machine
from detection.evaluation.coco import NAMES, coco_metrics
from detection.evaluation.report import evaluate

IMAGES, CLASSES, OBJECTS, DETECTIONS = 5000, 80, 7.3, 100


def run(args: argparse.Namespace) -> int:
    truth, detections = made_up(np.random.default_rng(0))
    print(f"{machine()}\n{IMAGES} pictures, {len(truth['annotations'])} objects, {len(detections)} detections\n")
    took: dict[str, list[float]] = {"COCO's twelve": [], "the whole report, VOC's mAP too": [], "pycocotools": []}
    far = 0.0
    for turn in range(args.repeat):
        answers = []
        for name, judge in zip(took, (coco_metrics, evaluate, pycocotools), strict=True):
            began = time.perf_counter()
            answers.append(judge(truth, detections))  # type: ignore[operator]
            took[name].append(time.perf_counter() - began)
            print(f"turn {turn + 1}  {name:32} {took[name][-1]:7.2f} s", flush=True)
        far = max(far, *(abs((answers[0][0][n] or 0) - value) for n, value in zip(NAMES, answers[2], strict=True)))
    *ours, theirs = took.values()
    print("\n| | seconds (median) | of pycocotools' time (turn by turn) |\n|---|---|---|")
    for name, times in zip(took, ours, strict=False):
        share = statistics.median(a / b for a, b in zip(times, theirs, strict=True))
        print(f"| {name} | {statistics.median(times):.2f} | {share:.3f} |")
    print(f"| pycocotools | {statistics.median(theirs):.2f} | 1 |\n\nlargest difference of the twelve: {far:.1e}")
    return 0


def made_up(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Annotations, and results of which three in five lie about an object."""
    images = [{"id": i + 1, "width": 640, "height": 480, "file_name": f"{i}.jpg"} for i in range(IMAGES)]
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in images:
        count = int(rng.poisson(OBJECTS))
        size = rng.uniform(8, 200, (count, 2))
        boxes = np.concatenate((rng.uniform(0, 1, (count, 2)) * ([640, 480] - size), size), axis=1)
        classes, crowd = rng.integers(1, CLASSES + 1, count), rng.random(count) < 0.01
        for box, label, many in zip(boxes.tolist(), classes.tolist(), crowd.tolist(), strict=True):
            own = {"id": len(truth) + 1, "image_id": image["id"], "category_id": label, "iscrowd": int(many)}
            truth.append({**own, "bbox": box, "area": box[2] * box[3]})
        guess = np.concatenate((rng.uniform(0, 400, (DETECTIONS, 2)), rng.uniform(8, 200, (DETECTIONS, 2))), axis=1)
        labels = rng.integers(1, CLASSES + 1, DETECTIONS)
        if count:
            near = rng.integers(0, count, 3 * DETECTIONS // 5)
            guess[: len(near)] = boxes[near]
            guess[: len(near), :2] += rng.normal(0, 5, (len(near), 2))
            guess[: len(near), 2:] *= np.exp(rng.normal(0, 0.15, (len(near), 2)))
            known = rng.random(len(near)) < 0.7
            labels[: len(near)][known] = classes[near][known]
        for box, label, score in zip(guess.tolist(), labels.tolist(), rng.random(DETECTIONS).tolist(), strict=True):
            found.append({"image_id": image["id"], "category_id": label, "bbox": box, "score": score})
    categories = [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)]
    return {"images": images, "annotations": truth, "categories": categories}, found


def pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]]) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = copy.deepcopy(truth)
        gt.createIndex()
        dt = gt.loadRes([dict(d) for d in detections])
        judge = COCOeval(gt, dt, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats
