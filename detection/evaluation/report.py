"""Evaluate detections: COCO and VOC metrics, a table and files. Uses COCO format alone, neither models nor datasets."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from detection.evaluation.coco import MAX_DETECTIONS, EvaluatorName, coco_metrics, undefined_reasons
from detection.evaluation.voc import voc_ap
from detection.utils.atomic_io import write_json, write_text

VOC_IOU = 0.5
FILES = ("metrics.json", "per_class.csv")  # of an evaluation


@dataclass(frozen=True)
class Report:
    """The metrics of an evaluation, fractions 0..1 or None.

    Attributes:
        metrics: COCO's twelve, VOC07_mAP and VOC_mAP (at IoU 0.5), and those at other IoUs such as VOC07_mAP@0.3.
        per_class: class -> {"AP", "VOC07_AP", "VOC_AP"}.
        reasons: metric -> why it is None.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    reasons: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the contents of metrics.json."""
        out: dict[str, Any] = {**self.metrics, "per_class": self.per_class}
        return out | ({"undefined": self.reasons} if self.reasons else {})


def evaluate(
    ground_truth: dict[str, Any],
    detections: list[dict[str, Any]],
    voc_ious: Sequence[float] = (),
    max_detections: int = MAX_DETECTIONS,
    evaluator: EvaluatorName = "hotcoco",
) -> Report:
    """Evaluate detections by the COCO and VOC protocols.

    COCO's metrics count the best 100 detections of a class in an image. Where a model gives more, those with all that it
    gives are its own measure: "AP" and "AR1000" for ``max_detections=1000``, with COCO's beside them as "AP@100" and
    "AR100". Where an image has more than ``max_detections``, "AP@N" counts the N of the image that has most.

    Args:
        ground_truth: COCO annotations, as for ``coco_metrics`` and ``voc_ap``.
        detections: COCO results.
        voc_ious: further IoU thresholds for VOC's AP, besides 0.5.
        max_detections: of a class in an image, at least 10; VOC's metrics count all.
        evaluator: of COCO's metrics, as for ``coco_metrics``.
    """
    # COCO counts the detections of an image by class
    most = max(Counter((d["image_id"], d["category_id"]) for d in detections).values(), default=0)
    beside = [n for n in (MAX_DETECTIONS, most) if n != max_detections and most > min(n, max_detections)]
    metrics, per_class_ap = coco_metrics(ground_truth, detections, max_detections, beside, evaluator)
    reasons = undefined_reasons(metrics)
    per_class: dict[str, dict[str, float | None]] = {name: {"AP": ap} for name, ap in per_class_ap.items()}
    for iou in (VOC_IOU, *(i for i in voc_ious if i != VOC_IOU)):
        suffix = "" if iou == VOC_IOU else f"@{iou:g}"
        aps = voc_ap(ground_truth, detections, iou)
        for column, name in enumerate(("VOC07", "VOC")):
            values = {c: pair[column] for c, pair in aps.items()}
            metrics[f"{name}_mAP{suffix}"] = _mean(list(values.values()))
            for c, value in values.items():
                per_class[c][f"{name}_AP{suffix}"] = value
            if metrics[f"{name}_mAP{suffix}"] is None:
                reasons[f"{name}_mAP{suffix}"] = "no ground truth"
    return Report(metrics, per_class, reasons)


def table(report: Report) -> str:
    """Return the metrics and then the classes as a text table; undefined values are "-", with the reason."""
    # names of classes are text: "[/b]" is no markup, ":dog:" no emoji
    console = Console(width=100, record=True, file=io.StringIO(), markup=False, emoji=False, highlight=False)
    metrics = Table("metric")
    metrics.add_column("value", justify="right")
    if report.reasons:
        metrics.add_column("why undefined")
    for name, value in report.metrics.items():
        metrics.add_row(name, _text(value), *([report.reasons.get(name, "")] if report.reasons else []))
    # not a table title, which would wrap at the table's width
    console.print("evaluation (fractions 0..1)", metrics, sep="\n")
    if report.per_class:
        columns = list(next(iter(report.per_class.values())))
        classes = Table("class")
        for column in columns:
            classes.add_column(column, justify="right")
        for name, values in report.per_class.items():
            classes.add_row(name, *(_text(values[c]) for c in columns))
        console.print("per class", classes, sep="\n")
    return console.export_text()


def write_report(report: Report, folder: Path) -> None:
    """Write metrics.json and per_class.csv to ``folder``, each whole or not at all."""
    write_json(folder / "metrics.json", report.to_json())
    lines = io.StringIO(newline="")
    columns = list(next(iter(report.per_class.values()), {}))
    writer = csv.writer(lines)
    writer.writerow(["class", *columns])
    for name, values in report.per_class.items():
        writer.writerow([name, *("" if values[c] is None else f"{values[c]:.6f}" for c in columns)])
    write_text(folder / "per_class.csv", lines.getvalue())


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mean(values: list[float | None]) -> float | None:
    defined = [v for v in values if v is not None]
    return sum(defined) / len(defined) if defined else None
