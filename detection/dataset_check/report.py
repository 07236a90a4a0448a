"""Dataset check (`resdet check-dataset`): all issues of a VOC or COCO folder and what training does about them, statistics,
and anchor coverage."""

import functools
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.config import Config
from detection.data.annotations import Annotations, box_issues, flag_objects, train_objects, why_nothing_to_train_on
from detection.data.cache import cached, decode_json, encode_json, file_stamp
from detection.data.formats import SYNTHETIC
from detection.data.issues import Issue
from detection.data.recognise import find_data
from detection.data.splitting.split import parse_split
from detection.dataset_check.advice import advice
from detection.dataset_check.anchor_coverage import anchor_coverage, resized_boxes, unreached
from detection.dataset_check.decoding import decode_images
from detection.dataset_check.issues import (
    ImageInfo,
    class_counts,
    class_issues,
    decode_image,
    duplicate_images,
    few_objects,
    image_issues,
)
from detection.dataset_check.near_duplicates import near_across
from detection.dataset_check.reading import read_sets, source_stamps
from detection.dataset_check.text import anchor_lines, issue_lines
from detection.utils.atomic_io import write_json
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
_MAX_IMAGES, _MAX_IMAGES_QUICK = 2000, 500  # for the anchor coverage
_SMALL, _LARGE = 32.0**2, 96.0**2  # COCO's area limits in square pixels


def check(
    config: Config, *, workers: int = 1, quick: bool = False, sets: dict[str, Annotations] | None = None
) -> dict[str, Any]:
    """Return all issues and statistics of the training and validation sets as JSON types.

    Args:
        config: names the dataset; its sizes and anchors are used for the anchor coverage.
        workers: processes that decode the images.
        quick: check the annotations only, decode no image.
        sets: of :func:`read_sets`, where they are at hand.

    Raises:
        DataError: a split does not exist.
    """
    config = replace(config, data=find_data(config.data))
    splits = dict(read_sets(config.data) if sets is None else sets)
    files = sorted({file for records in splits.values() for file in records.files})
    root = str(Path(config.data.root).expanduser().resolve())
    infos: dict[str, ImageInfo] = {}
    if not quick:
        infos = _decode(files, root, workers, config.data.max_pixels, config.model.in_channels)
    issues: list[Issue] = []
    for name, records in splits.items():
        issues += _of_images(records, infos)
        splits[name] = records = _with_decoded_sizes(records, infos)
        flags = flag_objects(records)
        issues += box_issues(records, flags)
        if name == "train":
            objects = train_objects(records, config.data.keep_difficult, flags)
            if reason := why_nothing_to_train_on(records, objects):
                issues.append(Issue("nothing to train on", records.name, None, reason))
            issues += few_objects(records, objects)
    used = set(files)
    issues = [issue for issue in issues if issue.kind != "unused file" or issue.file not in used]
    issues += class_issues(splits)
    if not quick:
        digests = {n: [(file, infos[file].digest) for file in records.files] for n, records in splits.items()}
        same = list(duplicate_images(digests))
        unreadable = {file for file, info in infos.items() if info.error}
        issues += [*same, *near_across(splits, root, unreadable | {issue.file for issue in same})]
    anchors, missed = _anchor_coverage(config, list(splits.values()), quick)
    issues += missed
    return {
        "sets": {name: _statistics(records, infos) for name, records in splits.items()},
        "anchors": anchors,
        "faults": [issue.to_json() for issue in issues],
        "advice": advice(config, issues, splits, anchors),
        "quick": quick,
    }


def _of_images(records: Annotations, infos: dict[str, ImageInfo]) -> list[Issue]:
    """Return the issues of reading a set, and those of its images that were decoded."""
    issues = list(records.issues)
    known = {issue.file for issue in issues if issue.kind == "another size stated"}
    for i, file in enumerate(records.files):
        if file in infos:
            found = image_issues(records, i, infos[file])
            issues += [x for x in found if x.kind != "another size stated" or x.file not in known]
    return issues


def _with_decoded_sizes(records: Annotations, infos: dict[str, ImageInfo]) -> Annotations:
    """Return the annotations with the sizes of the images that were decoded: training clips the boxes to these."""
    sizes = [
        (info.height, info.width) if (info := infos.get(file)) is not None and not info.error else tuple(size)
        for file, size in zip(records.files, records.sizes.tolist(), strict=True)
    ]
    return replace(records, sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2))


def quick_check(config: Config, datasets: Sequence[Annotations], path: Path, split_file: Path | None = None) -> None:
    """Check a run's annotations before its first step: log a summary, and write the report to ``path``.

    For an unchanged dataset the report comes from the cache. The synthetic dataset is not checked.

    Args:
        config: of the run.
        datasets: its training and validation sets.
        path: of the JSON report.
        split_file: of the run, where its sets are parts of a split.
    """
    if config.data.format == SYNTHETIC:
        return
    _LOG.info("checking the annotations under %s", config.data.root)
    own_val = config.data.val if parse_split(config.data.val) is None else None
    splits = [split for split in (config.data.train, own_val) if split]
    folders = sorted({os.path.dirname(file) for records in datasets for file in records.files})
    sources = [source_stamps(config.data, split) for split in splits]

    def run_check() -> dict[str, Any]:
        return check(config, quick=True, sets=read_sets(config.data, split_file))

    if None in sources:  # nobody knows when to read again
        report = run_check()
    else:
        stamps = [sources, [file_stamp(Path(folder)) for folder in folders]]
        stamps.append(split_file.read_text(encoding="utf-8") if split_file is not None and split_file.exists() else "")
        key = repr((stamps, config.data, config.model.anchors, config.model.architecture))
        arrays = cached(
            f"check 2 of {Path(config.data.root).expanduser().resolve()} {config.data.format} {splits}",
            hashlib.sha256(key.encode()).hexdigest(),
            lambda: {"report": encode_json(run_check())},
        )
        report = decode_json(arrays["report"])
    write_json(path, report)
    lines = [*issue_lines(report, examples=1), *anchor_lines(report["anchors"])]
    _LOG.info("%s\n(full report in %s; tools/check_dataset.py also decodes the images)", "\n".join(lines), path)


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


def _anchor_coverage(config: Config, splits: Sequence[Annotations], quick: bool) -> tuple[dict[str, Any], list[Issue]]:
    """Return the anchor coverage on an evenly spaced sample of the images, and its objects that no anchor reaches."""
    images = [(records, i) for records in splits for i in range(len(records))]
    sample = images[:: max(1, -(-len(images) // (_MAX_IMAGES_QUICK if quick else _MAX_IMAGES)))]
    used = {id(records): train_objects(records, keep_difficult=False).keep for records in splits}
    known, owners = [], list[tuple[Annotations, int, int]]()
    for records, i in sample:
        objects = records.objects(i)
        boxes = records.boxes[objects]
        with np.errstate(invalid="ignore", over="ignore"):
            sound = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1) & np.isfinite(boxes).all(axis=1)
        counted = ~(records.crowd[objects] | records.difficult[objects]) & sound
        height, width = records.sizes[i].tolist()
        known.append(((height, width), boxes[counted].tolist()))
        owners += [(records, i, objects.start + j) for j in np.flatnonzero(counted).tolist()]
    resized = resized_boxes(config, known)
    missed = []
    for k, overlap, side in unreached(config.model, resized):
        records, i, j = owners[k]
        if not used[id(records)][j]:  # training leaves it out
            continue
        label = records.classes[records.labels[j] - 1]
        found = f"{label}, {side:.0f} px after resizing: the best anchor's IoU is {overlap:.2f}"
        missed.append(Issue("object that no anchor reaches", records.source(i), records.object_name(j, i), found))
    return anchor_coverage(config.model, resized), missed


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
