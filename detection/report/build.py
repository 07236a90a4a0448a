"""A report from ground truth and detections: its numbers, and its page in one HTML file."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detection.analysis.scene import MAX_DETECTIONS
from detection.evaluation.report import Report, evaluate
from detection.pages.page import asset, render
from detection.report import details, gallery, history, numbers
from detection.report.analysis import Analysis, analyse
from detection.report.arrays import page_arrays
from detection.report.sources import Inputs
from detection.utils.atomic_io import write_json, write_text

PAGE = "report.html"  # of a run
THUMBNAILS = 60
_SCRIPTS = ("state.js", "sections.js", "more.js", "gallery.js", "report.js")


@dataclass(frozen=True)
class Options:
    """What a report has besides.

    Attributes:
        thumbnails: at most so many images are in the page.
        fields: to slice by: folder, or keys of the annotation file's image entries.
        compare: other evaluations on the same images.
        diagnosis: of the detector's stages (``resdet diagnose``).
        max_detections: of a class in an image that count.
        evaluator: of COCO's metrics.
    """

    thumbnails: int = THUMBNAILS
    fields: tuple[str, ...] = ()
    compare: tuple[Inputs, ...] = ()
    diagnosis: dict[str, Any] | None = None
    max_detections: int = MAX_DETECTIONS
    evaluator: str = "hotcoco"


def build(
    inputs: Inputs, options: Options | None = None, report: Report | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers of a report (JSON types), and what its page needs besides.

    Args:
        inputs: ground truth and detections.
        options: see there.
        report: the metrics where they were computed already.

    Raises:
        ValueError: a field that no image has, or a comparison with other images.
    """
    options = options or Options()
    started = time.perf_counter()
    limit = options.max_detections
    if report is None:
        report = evaluate(inputs.ground_truth, inputs.detections, (), limit, options.evaluator)  # type: ignore[arg-type]
    analysis = analyse(inputs.ground_truth, inputs.detections, limit)
    metrics = report
    parts: dict[str, Callable[[], Any]] = {
        "counts": lambda: numbers.counts(analysis),
        "metrics": lambda: numbers.metrics(metrics, details.intervals(analysis)),
        "classes": lambda: numbers.classes(analysis, metrics),
        "thresholds": lambda: numbers.thresholds(analysis),
        "curves": lambda: numbers.curves(analysis),
        "confusion": lambda: numbers.confusion(analysis),
        "errors": lambda: numbers.errors(analysis),
        "bins": lambda: details.bins(analysis),
        "calibration": lambda: details.calibrations(analysis),
        "boxes": lambda: details.boxes(analysis),
        "labels": lambda: details.doubtful_labels(analysis),
        "slices": lambda: details.slices(analysis, list(options.fields)),
        "images": lambda: details.images(analysis),
        "compare": lambda: [
            details.comparison(analysis, analyse(other.ground_truth, other.detections, limit), other.title)
            for other in options.compare
        ],
        "diagnosis": lambda: options.diagnosis,
        "drift": lambda: (
            None if inputs.train is None else history.drift(analysis.scene, inputs.train, inputs.val, inputs.read_file)
        ),
        "training": lambda: None if inputs.run is None else history.curves(inputs.run),
        "speed": lambda: None if inputs.run is None else history.speed(inputs.run),
    }
    result: dict[str, Any] = {
        "title": inputs.title,
        "header": inputs.facts | {"evaluator": numbers.evaluator(options.evaluator)},
        "warnings": [*inputs.warnings, *details.incomparable(limit)],
        "replicates": details.replicates(analysis.scene),
    }
    for name, part in parts.items():
        result[name] = part()
    result["seconds"] = round(time.perf_counter() - started, 2)
    return result, _page_data(analysis, result, inputs, options)


def _page_data(analysis: Analysis, result: dict[str, Any], inputs: Inputs, options: Options) -> dict[str, Any]:
    chosen = gallery.choose(analysis, np.array(result["images"]["lost"]))
    shown = gallery.cards(analysis, chosen)
    if inputs.read is not None and options.thumbnails > 0:
        files = [analysis.scene.files[card["image"]] for card in shown[: options.thumbnails]]
        for i, image in gallery.thumbnails(files, inputs.read).items():
            shown[i]["thumbnail"] = image
    return {
        "arrays": page_arrays(analysis),
        "files": list(analysis.scene.files),
        "ids": [str(i) for i in analysis.scene.image_ids],
        "threshold": analysis.threshold,
        "cards": shown,
        "readable": inputs.read is not None,
    }


def write(
    inputs: Inputs,
    page: Path | None = None,
    json: Path | None = None,
    options: Options | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Write a report's page and its numbers, each whole or not at all; return the numbers."""
    result, data = build(inputs, options, report)
    if json is not None:
        write_json(json, result)
    if page is not None:
        scripts = [asset(name, "detection.report") for name in _SCRIPTS]
        styles = [asset("report.css", "detection.report")]
        write_text(page, render(inputs.title, {**result, **data}, scripts=scripts, styles=styles))
    return result
