"""`resdet check-dataset`: every fault of a VOC or COCO folder and what training does about it, what is in it, and which of
its boxes the configuration's anchors can match."""

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
from detection.data.annotations import Records
from detection.data.cache import cached, decode_json, encode_json, file_stamp
from detection.dataset_check.anchor_coverage import anchor_fit, seen_boxes
from detection.dataset_check.decoding import inspect_pictures
from detection.dataset_check.issues import (
    KINDS,
    Annotated,
    Fault,
    Picture,
    box_faults,
    class_faults,
    picture_faults,
    same_pictures,
)
from detection.dataset_check.reading import Audit, audit, made_from
from detection.utils.atomic_io import replacing
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
_SHOWN = 3  # examples of each kind
_MATCHED, _MATCHED_QUICKLY = 2000, 500  # pictures whose boxes are held against the anchors
_SMALL, _LARGE = 32.0**2, 96.0**2  # COCO's


def check(config: Config, *, workers: int = 1, quick: bool = False) -> dict[str, Any]:
    """All faults and statistics of the training and validation sets, as plain types.

    Raises:
        DataError: a set is not there at all.
    """
    splits = {"train": config.data.train} | ({"val": config.data.val} if config.data.val else {})
    audits = {name: audit(config.data, str(split)) for name, split in splits.items()}
    files = sorted({str(image.file) for own in audits.values() for image in own.images})
    pictures = {} if quick else _decoded(files, str(Path(config.data.root).expanduser().resolve()), workers)
    faults: list[Fault] = []
    for own in audits.values():
        faults += own.faults
        for image in own.images:
            picture = pictures.get(str(image.file))
            if picture is not None:
                faults += picture_faults(image, picture)
            # COCO's boxes are cut off at the stated size, VOC's at the picture's: an XML's alone is wrong too often
            if config.data.format == "coco":
                size = image.stated or _size(image, picture)
            else:
                size = _size(image, picture) if picture is not None else None
            faults += box_faults(image, size)
    used = {str(image.file) for own in audits.values() for image in own.images}
    faults = [fault for fault in faults if fault.kind != "unused file" or fault.file not in used]
    faults += class_faults({n: dict(a.classes) for n, a in audits.items()}, {n: a.where for n, a in audits.items()})
    if not quick:
        digests = {n: [(str(i.file), pictures[str(i.file)].digest) for i in a.images] for n, a in audits.items()}
        faults += same_pictures(digests)
    return {
        "sets": {name: _statistics(own, pictures) for name, own in audits.items()},
        "anchors": _anchors(config, [i for own in audits.values() for i in own.images], pictures, quick),
        "faults": [fault.to_json() for fault in faults],
        "quick": quick,
    }


def first_look(config: Config, sets: Sequence[Records], place: Path) -> None:
    """What a run says of its data before its first step: the quick check, in short in the log and whole in ``place``. For a
    set that has not changed since the last time it comes from the user's cache; drawn pictures have no faults.

    Args:
        config: of the run.
        sets: its training and validation sets as they were read.
        place: a JSON file.
    """
    if config.data.format == "shapes":
        return
    _LOG.info("looking through the annotations under %s", config.data.root)
    splits = [split for split in (config.data.train, config.data.val) if split]
    folders = sorted({os.path.dirname(file) for records in sets for file in records.files})
    stamps = [[made_from(config.data, split) for split in splits], [file_stamp(Path(folder)) for folder in folders]]
    arrays = cached(
        f"check of {Path(config.data.root).expanduser().resolve()} {config.data.format} {splits}",
        hashlib.sha256(
            repr((stamps, config.data, config.model.anchors, config.model.architecture)).encode()
        ).hexdigest(),
        lambda: {"report": encode_json(check(config, quick=True))},
    )
    report = decode_json(arrays["report"])
    with replacing(place) as part:
        part.write_text(json.dumps(report, indent=2) + "\n")
    lines = [*_faults(report, shown=1), *_anchors_text(report["anchors"])]
    _LOG.info("%s\n(%s has all; tools/check_dataset.py also decodes the pictures)", "\n".join(lines), place)


def text(report: dict[str, Any]) -> str:
    """The report to read: faults by kind, worst first, then what the sets hold."""
    lines = _faults(report, _SHOWN, " (--json FILE has all)")
    for name, own in report["sets"].items():
        lines.append(
            f"\n{name} ({own['where']})\n  {own['pictures']} pictures, {own['without_objects']} of them without objects; "
            f"{own['objects']} objects of {sum(map(bool, own['classes'].values()))} classes; {own['crowd']} crowd regions, "
            f"{own['difficult']} difficult"
        )
        lines.append(
            "  objects under 32² pixels {small}, to 96² {medium}, over it {large}; {right} end at the right edge, {bottom} "
            "at the bottom".format(**own["sizes"], **own["edges"])
        )
        if own["aspect_ratios"]:
            low, middle, high = own["aspect_ratios"]
            lines.append(
                f"  height / width: a tenth below {low:.2f}, half below {middle:.2f}, a tenth above {high:.2f}"
            )
        classes = ", ".join(f"{label} {count}" for label, count in own["classes"].items())
        lines += textwrap.wrap(classes, 118, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, "", *_anchors_text(report["anchors"])])


def _faults(report: dict[str, Any], shown: int, rest: str = "") -> list[str]:
    counts = Counter(fault["kind"] for fault in report["faults"])
    lost = sum(fault["drops"] for fault in report["faults"])
    lines = [f"faults by which something is lost: {lost}; notes: {len(report['faults']) - lost}"]
    for kind in KINDS:  # in their order: the worst first
        if not counts[kind]:
            continue
        lines.append(f"{counts[kind]:7}  {kind}: {KINDS[kind][1]}")
        own = [fault for fault in report["faults"] if fault["kind"] == kind]
        for fault in own[:shown]:
            place = fault["file"] + (f" object {fault['object']}" if fault["object"] else "")
            lines.append(f"           {place}{': ' + fault['found'] if fault['found'] else ''}")
        if len(own) > shown:
            lines.append(f"           … and {len(own) - shown} more{rest}")
    return lines


def _anchors_text(anchors: dict[str, Any]) -> list[str]:
    if not anchors["boxes"]:
        return []
    low, middle, high = anchors["sides"]
    lines = [
        f"as training sees them: a tenth of the objects is smaller than {low:.0f} px (the square root of the area), half "
        f"than {middle:.0f}, a tenth larger than {high:.0f}",
        f"anchors of {_numbers(anchors['sizes'])} px match {_shares(anchors['matched'])} (best anchor of each of "
        f"{anchors['boxes']} boxes)",
    ]
    if anchors["suggestion"]:
        better = anchors["suggestion"]
        lines.append(f"  model.anchors.sizes=[{_numbers(better['sizes'])}] would match {_shares(better['matched'])}")
    return lines


def _shares(matched: dict[str, float]) -> str:
    return ", ".join(f"{share:.1%} at IoU {threshold}" for threshold, share in matched.items())


def _numbers(values: Iterable[float]) -> str:
    return ",".join(f"{v:g}" for v in values)


def _size(image: Annotated, picture: Picture | None) -> tuple[int, int] | None:
    if picture is not None and not picture.error:
        return picture.height, picture.width
    return image.stated if image.stated and min(image.stated) > 0 else None


def _decoded(files: list[str], root: str, workers: int) -> dict[str, Picture]:
    with progress_bar() as bar:
        task = bar.add_task("decoding", total=None)
        return inspect_pictures(files, root, workers, lambda done, of: bar.update(task, completed=done, total=of))


def _anchors(config: Config, images: list[Annotated], pictures: dict[str, Picture], quick: bool) -> dict[str, Any]:
    some = images[:: max(1, -(-len(images) // (_MATCHED_QUICKLY if quick else _MATCHED)))]
    sizes = [_size(image, pictures.get(str(image.file))) for image in some]
    boxes = [[box for _, _, box, crowd in image.objects if not crowd] for image in some]
    known = [(size, own) for size, own in zip(sizes, boxes, strict=True) if size is not None]
    return anchor_fit(config.model, seen_boxes(config, known))


def _statistics(own: Audit, pictures: dict[str, Picture]) -> dict[str, Any]:
    boxes = np.array([box for image in own.images for _, _, box, _ in image.objects], dtype=np.float64).reshape(-1, 4)
    size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    area, whole = size.prod(axis=1), (size > 0).all(axis=1)
    sides = [
        (s[0], s[1]) if (s := _size(i, pictures.get(str(i.file)))) else (0, 0) for i in own.images for _ in i.objects
    ]
    height, width = np.array(sides, dtype=np.float64).reshape(-1, 2).T
    ratios = size[whole, 1] / size[whole, 0]
    return {
        "where": own.where,
        "pictures": len(own.images),
        "without_objects": sum(not image.objects for image in own.images),
        "objects": len(boxes),
        "crowd": own.crowd,
        "difficult": own.difficult,
        "classes": dict(sorted(own.classes.items())),
        "sizes": {
            "small": int((area < _SMALL).sum()),
            "medium": int(((area >= _SMALL) & (area <= _LARGE)).sum()),
            "large": int((area > _LARGE).sum()),
        },
        "edges": {"right": int((boxes[:, 2] == width).sum()), "bottom": int((boxes[:, 3] == height).sum())},
        "modes": dict(Counter(p.mode for i in own.images if (p := pictures.get(str(i.file))) and not p.error)),
        "aspect_ratios": _tenths(ratios),
    }


def _tenths(values: NDArray[np.float64]) -> list[float]:
    """The values that a tenth, half and nine tenths are below."""
    return np.quantile(values, (0.1, 0.5, 0.9)).tolist() if len(values) else []
