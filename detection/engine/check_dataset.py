"""`resdet check-dataset`: every fault of a VOC or COCO folder and what training does about it, what is in it, and which of
its boxes the configuration's anchors can match."""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detection.boxes import iou
from detection.build import build_model
from detection.config import Config, ModelConfig
from detection.config_io import load_config
from detection.data import cache
from detection.data.audit import Audit, audit
from detection.data.faults import (
    KINDS,
    Annotated,
    Fault,
    Picture,
    box_faults,
    class_faults,
    inspect_picture,
    picture_faults,
    same_pictures,
)
from detection.data.transforms import resized
from detection.engine.files import replacing
from detection.engine.progress import progress_bar

_LOG = logging.getLogger(__name__)
_SHOWN = 3  # examples of each kind
_MATCHED = 2000  # pictures whose boxes are held against the anchors
_SMALL, _LARGE = 32.0**2, 96.0**2  # COCO's
_IOUS = (0.5, 0.7)


def main(argv: Sequence[str] | None = None) -> int:
    """Reports; 1 where something would be lost to training, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", default="faster_rcnn_r101.yaml", help="whose sizes and anchors count")
    parser.add_argument("--json", type=Path, help="write everything there too")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that decode (default: all cores)"
    )
    parser.add_argument("--quick", action="store_true", help="annotations alone: no picture is decoded")
    parser.add_argument(
        "keys", nargs="*", metavar="key=value", help="data.format=voc|coco data.root=… data.train=… data.val=…"
    )
    args = parser.parse_intermixed_args(argv)
    config = load_config(args.config, args.keys)
    report = check(config, workers=args.workers, quick=args.quick)
    print(text(report))
    if args.json is not None:
        with replacing(args.json) as part:
            part.write_text(json.dumps(report, indent=2) + "\n")
        print(f"everything is in {args.json}")
    return 1 if any(fault["drops"] for fault in report["faults"]) else 0


def check(config: Config, *, workers: int = 1, quick: bool = False) -> dict[str, Any]:
    """All faults and statistics of the training and validation sets, as plain types.

    Raises:
        DataError: a set is not there at all.
    """
    splits = {"train": config.data.train} | ({"val": config.data.val} if config.data.val else {})
    audits = {name: audit(config.data, str(split)) for name, split in splits.items()}
    files = sorted({str(image.file) for own in audits.values() for image in own.images})
    pictures = {} if quick else _pictures(files, str(Path(config.data.root).expanduser().resolve()), workers)
    faults: list[Fault] = []
    for own in audits.values():
        faults += own.faults
        for image in own.images:
            picture = pictures.get(str(image.file))
            if picture is not None:
                faults += picture_faults(image, picture)
            # COCO's boxes are cut off at the stated size, VOC's at the picture's
            stated = image.stated if config.data.format == "coco" else None
            faults += box_faults(image, stated or _size(image, picture))
    used = {str(image.file) for own in audits.values() for image in own.images}
    faults = [fault for fault in faults if fault.kind != "unused file" or fault.file not in used]
    faults += class_faults({n: dict(a.classes) for n, a in audits.items()}, {n: a.where for n, a in audits.items()})
    if not quick:
        digests = {n: [(str(i.file), pictures[str(i.file)].digest) for i in a.images] for n, a in audits.items()}
        faults += same_pictures(digests)
    return {
        "sets": {name: _statistics(own, pictures) for name, own in audits.items()},
        "anchors": _anchors(config, [i for own in audits.values() for i in own.images], pictures),
        "faults": [fault.to_json() for fault in faults],
        "quick": quick,
    }


def text(report: dict[str, Any]) -> str:
    """The report to read: faults by kind, worst first, then what the sets hold."""
    lines = []
    counts = Counter(fault["kind"] for fault in report["faults"])
    lost = sum(fault["drops"] for fault in report["faults"])
    lines.append(f"faults by which something is lost: {lost}; notes: {len(report['faults']) - lost}\n")
    for kind in KINDS:  # in their order: the worst first
        if not counts[kind]:
            continue
        lines.append(f"{counts[kind]:7}  {kind}: {KINDS[kind][1]}")
        own = [fault for fault in report["faults"] if fault["kind"] == kind]
        for fault in own[:_SHOWN]:
            place = fault["file"] + (f" object {fault['object']}" if fault["object"] else "")
            lines.append(f"           {place}{': ' + fault['found'] if fault['found'] else ''}")
        if len(own) > _SHOWN:
            lines.append(f"           … and {len(own) - _SHOWN} more (--json FILE has all)")
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
    anchors = report["anchors"]
    if anchors["boxes"]:
        low, middle, high = anchors["sides"]
        lines.append(
            f"\nas training sees them: a tenth of the objects is smaller than {low:.0f} px (the square root of the area), "
            f"half than {middle:.0f}, a tenth larger than {high:.0f}\nanchors of {_numbers(anchors['sizes'])} px match "
            + ", ".join(f"{share:.1%} at IoU {threshold}" for threshold, share in anchors["matched"].items())
            + f" (best anchor of each of {anchors['boxes']} boxes)"
        )
        if anchors["suggestion"]:
            better = anchors["suggestion"]
            lines.append(
                f"  model.anchors.sizes=[{_numbers(better['sizes'])}] would match "
                + ", ".join(f"{share:.1%} at IoU {threshold}" for threshold, share in better["matched"].items())
            )
    return "\n".join(lines)


def _numbers(values: Iterable[float]) -> str:
    return ",".join(f"{v:g}" for v in values)


def _size(image: Annotated, picture: Picture | None) -> tuple[int, int] | None:
    if picture is not None and not picture.error:
        return picture.height, picture.width
    return image.stated if image.stated and min(image.stated) > 0 else None


def _pictures(files: list[str], root: str, workers: int) -> dict[str, Picture]:
    """Each file decoded, by all cores; what was found of files that have not changed since the last time is read from the
    cache."""
    place = cache.folder() / f"pictures-{hashlib.sha256(root.encode()).hexdigest()[:24]}.json"
    try:
        content = json.loads(place.read_text())
        known = {file: (tuple(stamp), Picture(*picture)) for file, (stamp, picture) in content["pictures"].items()}
        if content["format"] != cache.FORMAT:
            known = {}
    except Exception:  # absent, or whatever is wrong with a damaged file
        known = {}
    stamps = {}
    for file in files:
        with contextlib.suppress(OSError):  # decoding says what is wrong with it
            stamps[file] = cache.stamp(Path(file))
    found = {file: known[file][1] for file in files if file in known and known[file][0] == stamps.get(file)}
    rest = [file for file in files if file not in found]
    if not rest:
        return found
    with progress_bar() as bar, ProcessPoolExecutor(workers) as pool:
        task = bar.add_task("decoding", total=len(rest))
        for file, picture in zip(rest, pool.map(inspect_picture, rest, chunksize=8), strict=True):
            found[file] = picture
            bar.advance(task)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as part:
            part.write_text(
                json.dumps({file: (stamps[file], dataclasses.astuple(picture)) for file, picture in found.items()})
            )
    except OSError as error:
        _LOG.warning("what was found cannot be kept for the next time: %s", error)
    return found


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


def _anchors(config: Config, images: list[Annotated], pictures: dict[str, Picture]) -> dict[str, Any]:
    """Which boxes some anchor overlaps enough, at the size at which they are seen, and sizes that would match more."""
    seen: list[tuple[tuple[int, int], torch.Tensor]] = []
    for image in images[:: max(1, -(-len(images) // _MATCHED))]:
        size = _size(image, pictures.get(str(image.file)))
        boxes = torch.tensor([box for _, _, box, many in image.objects if not many]).reshape(-1, 4)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1)]
        if size is None or not len(boxes):
            continue
        to = resized(*size, config.data.short_side[-1], config.data.max_side)
        seen.append((to, boxes * torch.tensor([to[1] / size[1], to[0] / size[0]] * 2)))
    if not seen:
        return {"boxes": 0}
    every = torch.cat([boxes for _, boxes in seen])
    sides = (every[:, 2:] - every[:, :2]).prod(dim=1).sqrt().double().numpy()
    sizes = config.model.anchors.sizes
    matched = _matched(config.model, sizes, seen)
    # the same number of sizes, in equal steps of scale between the smallest and the largest tenth's halves
    low, high = np.quantile(sides, (0.05, 0.95))
    better = [float(v) for v in np.geomspace(low, max(high, 1.01 * low), len(sizes)).round()]
    would = _matched(config.model, better, seen)
    gain = would[str(_IOUS[0])] - matched[str(_IOUS[0])]
    return {
        "boxes": len(every),
        "sides": _tenths(sides),
        "sizes": list(sizes),
        "matched": matched,
        "suggestion": {"sizes": better, "matched": would} if gain > 0.01 else None,
    }


def _matched(
    model: ModelConfig, sizes: Sequence[float], seen: list[tuple[tuple[int, int], torch.Tensor]]
) -> dict[str, float]:
    """The share of boxes whose best anchor reaches each IoU."""
    make = _generators(model, sizes)
    best = torch.cat([iou(boxes, make(size)).amax(dim=1) for size, boxes in seen])
    return {str(threshold): float((best >= threshold).float().mean()) for threshold in _IOUS}


def _generators(model: ModelConfig, sizes: Sequence[float]) -> Callable[[tuple[int, int]], torch.Tensor]:
    anchors = dataclasses.replace(model.anchors, sizes=tuple(sizes))
    generators = build_model(dataclasses.replace(model, anchors=anchors, weights=None), 1).rpn.anchors

    def all_of(size: tuple[int, int]) -> torch.Tensor:
        return torch.cat([g(-(-size[0] // g.stride), -(-size[1] // g.stride)) for g in generators])  # type: ignore[operator]

    return all_of
