"""The images of a report's page: which are shown, their boxes, and their thumbnails."""

import base64
import io
import logging
from typing import Any

import numpy as np
from PIL import Image

from detection.analysis.matching import MISSED
from detection.analysis.scene import Floats, Ints
from detection.report.analysis import Analysis
from detection.report.arrays import score_levels, score_range
from detection.report.sources import ImageOf
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
_WITH_BOXES = 400  # images whose boxes are in the page
_DETECTIONS = 60  # drawn of an image
_LEAST_SCORE = 0.05
_SIDE, _QUALITY = 400, 68  # of a thumbnail, in pixels; of JPEG


def choose(analysis: Analysis, lost: Floats, limit: int = _WITH_BOXES) -> Ints:
    """Return the images to show, worst first: in turns those that cost most AP, have most false positives, most misses, and
    the lowest F1; then any others."""
    scene, matches = analysis.scene, analysis.matches
    images = len(scene.image_ids)
    shown = scene.score >= analysis.threshold
    fp = np.bincount(scene.image[shown & matches.false_positive[0]], minlength=images)
    tp = np.bincount(scene.image[shown & matches.true_positive[0]], minlength=images)
    objects = np.bincount(scene.object_image[scene.counted], minlength=images)
    f1 = np.divide(2.0 * tp, tp + fp + objects, out=np.ones(images), where=tp + fp + objects > 0)
    ranks = [np.argsort(-value, kind="stable") for value in (lost, fp, objects - tp, -f1)]
    turns = np.stack(ranks, axis=1).ravel()
    first = np.sort(np.unique(turns, return_index=True)[1])
    return turns[first][:limit]


def cards(analysis: Analysis, chosen: Ints) -> list[dict[str, Any]]:
    """Return for each chosen image its size and its boxes.

    Objects are rows [x, y, width, height, label, ignored, level of the score + 1 of the detection that finds it or 0];
    detections [x, y, width, height, label, level, state, kind of error, row of the confusion matrix].
    """
    scene, matches = analysis.scene, analysis.matches
    level = score_levels(scene.score, *score_range(scene.score))
    state = np.where(matches.ignored[0], 2, matches.true_positive[0].astype(np.int64))
    of = analysis.confusion.of_detection
    row = np.full(len(of), len(scene.classes), dtype=np.int64)
    row[of != MISSED] = scene.object_label[of[of != MISSED]]
    row[analysis.confusion.ignored] = len(scene.classes) + 1
    found = np.zeros(len(scene.object_label), dtype=np.int64)
    by = matches.of_object[0]
    found[by != MISSED] = level[by[by != MISSED]] + 1
    objects_of = np.searchsorted(scene.object_image, np.arange(len(scene.image_ids) + 1))
    detections_of = np.searchsorted(scene.image, np.arange(len(scene.image_ids) + 1))
    result = []
    for i in chosen.tolist():
        objects = slice(objects_of[i], objects_of[i + 1])
        detections = np.arange(detections_of[i], detections_of[i + 1])[:_DETECTIONS]
        detections = detections[(scene.score[detections] >= _LEAST_SCORE) | (np.arange(len(detections)) < 5)]
        height, width = scene.sizes[i].tolist()
        truth, boxes = scene.object_box[objects], scene.box[detections]
        if not (height and width):  # unknown: as large as the boxes
            reach = np.concatenate((np.ones((1, 4)), truth, boxes[:, :4])).max(axis=0)
            height, width = int(np.ceil(reach[3])), int(np.ceil(reach[2]))
        columns = [scene.object_label[objects], scene.object_ignored[objects].astype(np.int64), found[objects]]
        others = [x[detections] for x in (scene.label, level, state, analysis.errors.kind, row)]
        result.append(
            {"image": i, "size": [width, height], "objects": _rows(truth, columns), "detections": _rows(boxes, others)}
        )
    return result


def _rows(boxes: Floats, columns: list[Ints]) -> list[list[float]]:
    size = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    xywh = np.concatenate((boxes[:, :2], size), axis=1).round(1).tolist()
    return [
        [int(v) if v == int(v) else v for v in box] + list(rest)
        for box, *rest in zip(xywh, *(c.tolist() for c in columns), strict=True)
    ]


def thumbnails(files: list[str], read: ImageOf, shown: bool = True) -> dict[int, str]:
    """Return JPEGs as data: addresses by position in ``files``; images that cannot be read are left out, with a warning."""
    result: dict[int, str] = {}
    failed = 0
    with progress_bar(shown=shown) as bar:
        task = bar.add_task("thumbnails", total=len(files))
        for i, name in enumerate(files):
            try:
                result[i] = _thumbnail(read(name))
            except Exception as error:  # of decoders and disks: a page does not end for an image
                failed += 1
                _LOG.debug("%s has no thumbnail: %s", name, error)
            bar.advance(task)
    if failed:
        _LOG.warning("%d of %d images could not be read and have no thumbnail", failed, len(files))
    return result


def _thumbnail(pixels: Any) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
