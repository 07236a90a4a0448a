"""A report from ground truth and detections: its numbers, and its page in one HTML file."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detection.evaluation.report import Report, evaluate
from detection.pages.page import asset, render
from detection.report import numbers
from detection.report.analysis import Analysis, analyse
from detection.report.arrays import page_arrays
from detection.report.sources import Inputs
from detection.utils.atomic_io import write_json, write_text

_LOG = logging.getLogger(__name__)
PAGE = "report.html"  # of a run
_SCRIPTS = ("report.js",)


def build(inputs: Inputs, report: Report | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers of a report (JSON types), and what its page needs besides.

    Args:
        inputs: of the report.
        report: its metrics where they were computed already.
    """
    started = time.perf_counter()
    report = report or evaluate(inputs.ground_truth, inputs.detections)
    analysis = analyse(inputs.ground_truth, inputs.detections)
    parts: dict[str, Callable[[], Any]] = {
        "counts": lambda: numbers.counts(analysis),
        "metrics": lambda: numbers.metrics(report, {}),
        "classes": lambda: numbers.classes(analysis, report),
        "thresholds": lambda: numbers.thresholds(analysis),
        "curves": lambda: numbers.curves(analysis),
        "confusion": lambda: numbers.confusion(analysis),
        "errors": lambda: numbers.errors(analysis),
    }
    result: dict[str, Any] = {"title": inputs.title, "header": inputs.facts, "warnings": list(inputs.warnings)}
    for name, part in parts.items():
        result[name] = part()
    result["seconds"] = round(time.perf_counter() - started, 2)
    return result, _page_data(analysis)


def _page_data(analysis: Analysis) -> dict[str, Any]:
    return {"arrays": page_arrays(analysis), "files": list(analysis.scene.files), "threshold": analysis.threshold}


def write(
    inputs: Inputs, page: Path | None = None, json: Path | None = None, report: Report | None = None
) -> dict[str, Any]:
    """Write a report's page and its numbers, each whole or not at all; return the numbers."""
    result, data = build(inputs, report)
    if json is not None:
        write_json(json, result)
    if page is not None:
        scripts = [asset(name, "detection.report") for name in _SCRIPTS]
        styles = [asset("report.css", "detection.report")]
        write_text(page, render(inputs.title, {**result, **data}, scripts=scripts, styles=styles))
    return result
