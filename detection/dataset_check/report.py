"""Dataset check (`resdet check-dataset`): all issues of a VOC or COCO folder and what training does about them, statistics,
and anchor coverage."""

import hashlib
import json
import logging
import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.config import Config
from detection.data.annotations import Annotations
from detection.data.cache import cached, decode_json, encode_json, file_stamp
from detection.data.formats import SYNTHETIC
from detection.dataset_check.anchor_coverage import anchor_coverage, resized_boxes
from detection.dataset_check.decoding import decode_images
from detection.dataset_check.issues import (
    KINDS,
    AnnotatedImage,
    ImageInfo,
    Issue,
    box_issues,
    class_issues,
    duplicate_images,
    image_issues,
)
from detection.dataset_check.reading import SplitContents, read_split, source_stamps
from detection.utils.atomic_io import replacing
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
    files = sorted({str(image.file) for split in splits.values() for image in split.images})
    infos = {} if quick else _decode(files, str(Path(config.data.root).expanduser().resolve()), workers)
    issues: list[Issue] = []
    for split in splits.values():
        issues += split.issues
        for image in split.images:
            info = infos.get(str(image.file))
            if info is not None:
                issues += image_issues(image, info)
            # COCO boxes are clipped to the annotated size, VOC boxes to the image's: the size in an XML is often wrong
            if config.data.format == "coco":
                size = image.annotated_size or _size(image, info)
            else:
                size = _size(image, info) if info is not None else None
            issues += box_issues(image, size)
    used = {str(image.file) for split in splits.values() for image in split.images}
    issues = [issue for issue in issues if issue.kind != "unused file" or issue.file not in used]
    issues += class_issues({n: dict(s.classes) for n, s in splits.items()}, {n: s.source for n, s in splits.items()})
    if not quick:
        digests = {n: [(str(i.file), infos[str(i.file)].digest) for i in s.images] for n, s in splits.items()}
        issues += duplicate_images(digests)
    return {
        "sets": {name: _statistics(split, infos) for name, split in splits.items()},
        "anchors": _anchor_coverage(config, [i for split in splits.values() for i in split.images], infos, quick),
        "faults": [issue.to_json() for issue in issues],
        "quick": quick,
    }


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
    with replacing(path) as temp:
        temp.write_text(json.dumps(report, indent=2) + "\n")
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


def _size(image: AnnotatedImage, info: ImageInfo | None) -> tuple[int, int] | None:
    """Return an image's (height, width), decoded or else annotated, None where unknown."""
    if info is not None and not info.error:
        return info.height, info.width
    return image.annotated_size if image.annotated_size and min(image.annotated_size) > 0 else None


def _decode(files: list[str], root: str, workers: int) -> dict[str, ImageInfo]:
    with progress_bar() as bar:
        task = bar.add_task("decoding", total=None)
        return decode_images(files, root, workers, lambda done, total: bar.update(task, completed=done, total=total))


def _anchor_coverage(
    config: Config, images: list[AnnotatedImage], infos: dict[str, ImageInfo], quick: bool
) -> dict[str, Any]:
    """Return the anchor coverage on an evenly spaced sample of the images."""
    sample = images[:: max(1, -(-len(images) // (_MAX_IMAGES_QUICK if quick else _MAX_IMAGES)))]
    sizes = [_size(image, infos.get(str(image.file))) for image in sample]
    boxes = [[box for _, _, box, crowd in image.objects if not crowd] for image in sample]
    known = [(size, image_boxes) for size, image_boxes in zip(sizes, boxes, strict=True) if size is not None]
    return anchor_coverage(config.model, resized_boxes(config, known))


def _statistics(split: SplitContents, infos: dict[str, ImageInfo]) -> dict[str, Any]:
    boxes = np.array([box for image in split.images for _, _, box, _ in image.objects], dtype=np.float64).reshape(-1, 4)
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    area, nondegenerate = size.prod(axis=1), (size > 0).all(axis=1)
    image_sizes = [
        (s[0], s[1]) if (s := _size(i, infos.get(str(i.file)))) else (0, 0) for i in split.images for _ in i.objects
    ]
    height, width = np.array(image_sizes, dtype=np.float64).reshape(-1, 2).T
    ratios = size[nondegenerate, 1] / size[nondegenerate, 0]
    return {
        "where": split.source,
        "pictures": len(split.images),
        "without_objects": sum(not image.objects for image in split.images),
        "objects": len(boxes),
        "crowd": split.crowd,
        "difficult": split.difficult,
        "classes": dict(sorted(split.classes.items())),
        "sizes": {
            "small": int((area < _SMALL).sum()),
            "medium": int(((area >= _SMALL) & (area <= _LARGE)).sum()),
            "large": int((area > _LARGE).sum()),
        },
        "edges": {"right": int((boxes[:, 2] == width).sum()), "bottom": int((boxes[:, 3] == height).sum())},
        "modes": dict(Counter(p.mode for i in split.images if (p := infos.get(str(i.file))) and not p.error)),
        "aspect_ratios": _quantiles(ratios),
    }


def _quantiles(values: NDArray[np.float64]) -> list[float]:
    """Return the 10%, 50% and 90% quantiles, or an empty list where there are no values."""
    return np.quantile(values, (0.1, 0.5, 0.9)).tolist() if len(values) else []
