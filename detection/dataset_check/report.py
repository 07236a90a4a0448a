"""Dataset check (`resdet check-dataset`): all issues of a VOC or COCO folder and what training does about them, statistics,
and anchor coverage."""

import functools
import hashlib
import logging
import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.config import Config
from detection.data.annotations import Annotations, box_issues, flag_objects, train_objects, why_nothing_to_train_on
from detection.data.cache import cached, decode_json, encode_json, file_stamp
from detection.data.formats import SYNTHETIC
from detection.data.issues import KINDS, Issue
from detection.dataset_check.anchor_coverage import anchor_coverage, resized_boxes
from detection.dataset_check.decoding import decode_images
from detection.dataset_check.issues import (
    ImageInfo,
    class_counts,
    class_issues,
    decode_image,
    duplicate_images,
    image_issues,
)
from detection.dataset_check.reading import read_split, source_stamps
from detection.utils.atomic_io import write_json
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
_EXAMPLES = 3  # shown per kind
_MAX_IMAGES, _MAX_IMAGES_QUICK = 2000, 500  # for the anchor coverage
_SMALL, _LARGE = 32.0**2, 96.0**2  # COCO's area limits in square pixels


def check(config: Config, *, workers: int = 1, quick: bool = False) -> dict[str, Any]:
    """Return all issues and statistics of the training and validation sets as JSON types.

    Args:
        config: names the dataset; its sizes and anchors are used for the anchor coverage.
        workers: processes that decode the images.
        quick: check the annotations only, decode no image.

    Raises:
        DataError: a split does not exist.
    """
    split_names = {"train": config.data.train} | ({"val": config.data.val} if config.data.val else {})
    splits = {name: read_split(config.data, str(split)) for name, split in split_names.items()}
    files = sorted({file for records in splits.values() for file in records.files})
    infos: dict[str, ImageInfo] = {}
    if not quick:
        root = str(Path(config.data.root).expanduser().resolve())
        infos = _decode(files, root, workers, config.data.max_pixels, config.model.in_channels)
    issues: list[Issue] = []
    for name, records in splits.items():
        issues += records.issues
        known = {issue.file for issue in records.issues if issue.kind == "another size stated"}
        for i, file in enumerate(records.files):
            if file in infos:
                found = image_issues(records, i, infos[file])
                issues += [x for x in found if x.kind != "another size stated" or x.file not in known]
        splits[name] = records = _with_decoded_sizes(records, infos)
        flags = flag_objects(records)
        issues += box_issues(records, flags)
        if name == "train":
            objects = train_objects(records, config.data.keep_difficult, flags)
            if reason := why_nothing_to_train_on(records, objects):
                issues.append(Issue("nothing to train on", records.name, None, reason))
    used = set(files)
    issues = [issue for issue in issues if issue.kind != "unused file" or issue.file not in used]
    issues += class_issues(splits)
    if not quick:
        digests = {n: [(file, infos[file].digest) for file in records.files] for n, records in splits.items()}
        issues += duplicate_images(digests)
    return {
        "sets": {name: _statistics(records, infos) for name, records in splits.items()},
        "anchors": _anchor_coverage(config, list(splits.values()), quick),
        "faults": [issue.to_json() for issue in issues],
        "quick": quick,
    }


def _with_decoded_sizes(records: Annotations, infos: dict[str, ImageInfo]) -> Annotations:
    """Return the annotations with the sizes of the images that were decoded: training clips the boxes to these."""
    sizes = [
        (info.height, info.width) if (info := infos.get(file)) is not None and not info.error else tuple(size)
        for file, size in zip(records.files, records.sizes.tolist(), strict=True)
    ]
    return replace(records, sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2))


def quick_check(config: Config, datasets: Sequence[Annotations], path: Path) -> None:
    """Check a run's annotations before its first step: log a summary, and write the report to ``path``.

    For an unchanged dataset the report comes from the cache. The synthetic dataset is not checked.

    Args:
        config: of the run.
        datasets: its training and validation sets.
        path: of the JSON report.
    """
    if config.data.format == SYNTHETIC:
        return
    _LOG.info("checking the annotations under %s", config.data.root)
    splits = [split for split in (config.data.train, config.data.val) if split]
    folders = sorted({os.path.dirname(file) for records in datasets for file in records.files})
    sources = [source_stamps(config.data, split) for split in splits]
    if None in sources:  # nobody knows when to read again
        report = check(config, quick=True)
    else:
        stamps = [sources, [file_stamp(Path(folder)) for folder in folders]]
        key = repr((stamps, config.data, config.model.anchors, config.model.architecture))
        arrays = cached(
            f"check of {Path(config.data.root).expanduser().resolve()} {config.data.format} {splits}",
            hashlib.sha256(key.encode()).hexdigest(),
            lambda: {"report": encode_json(check(config, quick=True))},
        )
        report = decode_json(arrays["report"])
    write_json(path, report)
    lines = [*_issue_lines(report, examples=1), *_anchor_lines(report["anchors"])]
    _LOG.info("%s\n(full report in %s; tools/check_dataset.py also decodes the images)", "\n".join(lines), path)


def format_report(report: dict[str, Any]) -> str:
    """Return the report as text: issues by kind, most severe first, then statistics of the splits and anchor coverage."""
    lines = _issue_lines(report, _EXAMPLES, " (all with --json FILE)")
    for name, split in report["sets"].items():
        lines.append(
            f"\n{name} ({split['where']})\n  {split['pictures']} images, {split['without_objects']} without objects; "
            f"{split['objects']} objects of {sum(map(bool, split['classes'].values()))} classes; "
            f"{split['crowd']} crowd regions, {split['difficult']} difficult"
        )
        lines.append(
            "  object area: {small} small (< 32²), {medium} medium (to 96²), {large} large; {right} boxes touch the right "
            "edge, {bottom} the bottom edge".format(**split["sizes"], **split["edges"])
        )
        if split["aspect_ratios"]:
            low, median, high = split["aspect_ratios"]
            lines.append(
                f"  aspect ratio (height / width): 10% below {low:.2f}, median {median:.2f}, 10% above {high:.2f}"
            )
        classes = ", ".join(f"{label} {count}" for label, count in split["classes"].items())
        lines += textwrap.wrap(classes, 118, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, "", *_anchor_lines(report["anchors"])])


def _issue_lines(report: dict[str, Any], examples: int, hint: str = "") -> list[str]:
    counts = Counter(issue["kind"] for issue in report["faults"])
    dropping = sum(issue["drops"] for issue in report["faults"])
    lines = [f"issues that lose training data: {dropping}; notes: {len(report['faults']) - dropping}"]
    for kind in KINDS:  # most severe first
        if not counts[kind]:
            continue
        lines.append(f"{counts[kind]:7}  {kind}: {KINDS[kind][1]}")
        issues = [issue for issue in report["faults"] if issue["kind"] == kind]
        for issue in issues[:examples]:
            location = issue["file"] + (f" object {issue['object']}" if issue["object"] else "")
            lines.append(f"           {location}{': ' + issue['found'] if issue['found'] else ''}")
        if len(issues) > examples:
            lines.append(f"           … and {len(issues) - examples} more{hint}")
    return lines


def _anchor_lines(anchors: dict[str, Any]) -> list[str]:
    if not anchors["boxes"]:
        return []
    low, median, high = anchors["sides"]
    lines = [
        f"object size after resizing (square root of the area): 10% below {low:.0f} px, median {median:.0f} px, "
        f"10% above {high:.0f} px",
        f"anchor sizes {_numbers(anchors['sizes'])} px match {_fractions(anchors['matched'])} of {anchors['boxes']} boxes "
        "(best anchor of each box)",
    ]
    if anchors["suggestion"]:
        suggestion = anchors["suggestion"]
        lines.append(
            f"  model.anchors.sizes=[{_numbers(suggestion['sizes'])}] would match {_fractions(suggestion['matched'])}"
        )
    return lines


def _fractions(matched: dict[str, float]) -> str:
    return ", ".join(f"{fraction:.1%} at IoU {threshold}" for threshold, fraction in matched.items())


def _numbers(values: Iterable[float]) -> str:
    return ",".join(f"{v:g}" for v in values)


def _decode(files: list[str], root: str, workers: int, max_pixels: int, channels: int) -> dict[str, ImageInfo]:
    with progress_bar() as bar:
        task = bar.add_task("decoding", total=None)
        return decode_images(
            files,
            root,
            workers,
            lambda done, total: bar.update(task, completed=done, total=total),
            functools.partial(decode_image, max_pixels=max_pixels, channels=channels),
        )


def _anchor_coverage(config: Config, splits: Sequence[Annotations], quick: bool) -> dict[str, Any]:
    """Return the anchor coverage on an evenly spaced sample of the images."""
    images = [(records, i) for records in splits for i in range(len(records))]
    sample = images[:: max(1, -(-len(images) // (_MAX_IMAGES_QUICK if quick else _MAX_IMAGES)))]
    known = []
    for records, i in sample:
        objects = records.objects(i)
        counted = ~(records.crowd[objects] | records.difficult[objects])
        height, width = records.sizes[i].tolist()
        boxes = [(x1, y1, x2, y2) for x1, y1, x2, y2 in records.boxes[objects][counted].tolist()]
        known.append(((height, width), boxes))
    return anchor_coverage(config.model, resized_boxes(config, known))


def _statistics(records: Annotations, infos: dict[str, ImageInfo]) -> dict[str, Any]:
    size = np.maximum(records.boxes[:, 2:] - records.boxes[:, :2], 0)
    area, nondegenerate = size.prod(axis=1), (size > 0).all(axis=1)
    height, width = records.sizes[records.image_of()].T
    ratios = size[nondegenerate, 1] / size[nondegenerate, 0]
    return {
        "where": records.name,
        "pictures": len(records),
        "without_objects": int((np.diff(records.offsets) == 0).sum()),
        "objects": len(records.labels),
        "crowd": int(records.crowd.sum()),
        "difficult": int(records.difficult.sum()),
        "classes": dict(sorted(class_counts(records).items())),
        "sizes": {
            "small": int((area < _SMALL).sum()),
            "medium": int(((area >= _SMALL) & (area <= _LARGE)).sum()),
            "large": int((area > _LARGE).sum()),
        },
        "edges": {
            "right": int((records.boxes[:, 2] == width).sum()),
            "bottom": int((records.boxes[:, 3] == height).sum()),
        },
        "modes": dict(Counter(p.mode for file in records.files if (p := infos.get(file)) and not p.error)),
        "aspect_ratios": _quantiles(ratios),
    }


def _quantiles(values: NDArray[np.float64]) -> list[float]:
    """Return the 10%, 50% and 90% quantiles, or an empty list where there are no values."""
    return np.quantile(values, (0.1, 0.5, 0.9)).tolist() if len(values) else []
