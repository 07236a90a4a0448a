"""One HTML page to look at a dataset: images with their boxes, and what the check finds, beside."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.config import Config
from detection.data.annotations import Annotations, flag_objects
from detection.data.formats import get_format
from detection.data.issues import KINDS
from detection.data.recognise import find_data
from detection.data.splitting.split import image_names
from detection.dataset_check.reading import read_sets
from detection.dataset_check.report import check
from detection.dataset_check.thumbnails import thumbnails
from detection.pages.page import asset, packed, render
from detection.utils.progress import progress_bar

MAX_IMAGES = 20_000  # on a page; of more, those with findings and an evenly spaced sample
THUMBNAILS, SIDE = 200, 320
_MAX_FINDINGS = 1000  # of a kind, listed one by one
_FLAGS = ("degenerate", "outside", "duplicate", "crossing")  # bits 0 to 3 of an object's flags; then crowd, difficult
_PACKAGE = "detection.dataset_check"


def view_page(config: Config, *, images: int = THUMBNAILS, full: bool = False, workers: int = 1) -> str:
    """Return an HTML document of a dataset that opens from a file and requests nothing.

    Args:
        config: names the dataset; its sizes and anchors are used for the check.
        images: how many get a thumbnail, those with findings first; the others show their boxes on a plain ground.
        full: decode and compare all images, as ``check-dataset`` does; else the annotations alone are checked.
        workers: processes that decode.

    Raises:
        DataError: a set does not exist.
    """
    config = replace(config, data=find_data(config.data))
    sets = read_sets(config.data)
    report = check(config, workers=workers, quick=not full, sets=sets)
    root = Path(config.data.root).expanduser()
    finder = _Finder(sets)
    findings = finder.findings(report)
    shown = _shown(sets, finder.faulty, MAX_IMAGES)
    data = _content(sets, shown, root)
    position = {int(i): k for k, i in enumerate(shown)}
    for finding in findings:
        finding["items"] = [[position.get(i, -1), *rest] for i, *rest in finding["items"]]
    chosen = _with_thumbnails(len(shown), {position[i] for i in finder.faulty if i in position}, images)
    data |= {
        "title": str(config.data.root),
        "command": f"resdet check-dataset data.format={config.data.format} data.root={shlex.quote(config.data.root)}",
        "findings": findings,
        "classes": list(next(iter(sets.values())).classes),
        "total": sum(map(len, sets.values())),
        "sets": [[name, len(records), len(records.labels)] for name, records in sets.items()],
        "full": full,
        "thumbnails": _thumbnails(config, sets, shown, chosen),
    }
    return render(
        f"{root.name or root}: dataset",
        data,
        scripts=[asset("view.js", _PACKAGE)],
        styles=[asset("view.css", _PACKAGE)],
    )


class _Finder:
    """Finds the image that an issue of the report is about.

    Images are numbered through all sets.
    """

    def __init__(self, sets: Mapping[str, Annotations]) -> None:
        self.index: dict[str, int] = {}
        self.train = next(iter(sets.values()))  # the first
        self.faulty: dict[int, None] = {}  # in order of severity
        start = 0
        for records in sets.values():
            for i, file in enumerate(records.files):
                self.index.setdefault(file, start + i)
                self.index.setdefault(records.source(i), start + i)
            start += len(records)

    def _with_class(self, found: str) -> list[int]:
        """Return the training images with a class of few objects, "NAME: COUNT"."""
        records = self.train
        label = records.classes.index(found.rpartition(": ")[0]) + 1
        return np.unique(records.image_of()[records.labels == label]).tolist()

    def findings(self, report: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the kinds of issues with their images, most severe first."""
        by_kind: dict[str, list[Any]] = {}
        for issue in report["faults"]:
            by_kind.setdefault(issue["kind"], []).append(issue)
        result = []
        for kind, (severity, then) in KINDS.items():
            if kind not in by_kind:
                continue
            items = []
            for issue in by_kind[kind][:_MAX_FINDINGS]:
                image = self.index.get(issue["file"], -1)
                if image >= 0:
                    self.faulty.setdefault(image)
                items.append([image, issue["file"], issue["object"], issue["found"]])
                if kind == "class with few objects":
                    items += [[i, issue["file"], None, issue["found"]] for i in self._with_class(issue["found"])]
            result.append(
                {
                    "kind": kind,
                    "count": len(by_kind[kind]),
                    "severity": severity,
                    "then": then,
                    "advice": report["advice"].get(kind),
                    "items": items,
                }
            )
        return result


def _shown(sets: Mapping[str, Annotations], faulty: Mapping[int, None], limit: int) -> NDArray[np.int64]:
    """Return the images on the page, int64 [n], in order: all, or those with findings and an even sample of the others."""
    total = sum(map(len, sets.values()))
    if total <= limit:
        return np.arange(total)
    first = list(faulty)[: limit // 2]
    others = np.setdiff1d(np.arange(total), first)
    sample = others[np.linspace(0, len(others) - 1, limit - len(first)).astype(np.int64)]
    return np.union1d(first, sample).astype(np.int64)


def _content(sets: Mapping[str, Annotations], shown: NDArray[np.int64], root: Path) -> dict[str, Any]:
    """Return the images on the page and their objects as packed arrays."""
    files, part, sizes, counts, boxes, labels, flags = [], [], [], [], [], [], []
    start = 0
    for k, records in enumerate(sets.values()):
        rows = shown[(shown >= start) & (shown < start + len(records))] - start
        start += len(records)
        names = image_names(records, root)
        chosen = np.zeros(len(records), dtype=bool)
        chosen[rows] = True
        objects = chosen[records.image_of()]
        files += [names[i] for i in rows.tolist()]
        part.append(np.full(len(rows), k))
        sizes.append(records.sizes[rows])
        counts.append(np.diff(records.offsets)[rows])
        boxes.append(records.boxes[objects])
        labels.append(records.labels[objects] - 1)
        flags.append(_object_flags(records)[objects])
    return {
        "files": files,
        "part": packed(np.concatenate(part), "u1"),
        "imageSizes": packed(np.concatenate(sizes), "u4"),
        "offsets": packed(np.cumsum([0, *np.concatenate(counts).tolist()]), "u4"),
        "boxes": packed(np.concatenate(boxes), "f4"),
        "labels": packed(np.concatenate(labels), "u2"),
        "flags": packed(np.concatenate(flags), "u1"),
    }


def _object_flags(records: Annotations) -> NDArray[np.int64]:
    """Return what is special about each object as bits: degenerate, outside, duplicate, crossing, crowd, difficult."""
    flags = flag_objects(records)
    masks = [getattr(flags, name) for name in _FLAGS] + [records.crowd, records.difficult]
    return sum(
        (mask.astype(np.int64) << bit for bit, mask in enumerate(masks)), np.zeros(len(records.labels), np.int64)
    )


def _with_thumbnails(count: int, faulty: set[int], number: int) -> list[int]:
    """Return the images that get a thumbnail: half of them may be ones with findings, the others an even sample."""
    first = sorted(faulty)
    first = first[:: max(1, -(-len(first) // max(1, number // 2)))] if len(faulty) > number // 2 else first
    others = np.setdiff1d(np.arange(count), first)
    left = min(len(others), max(0, number - len(first)))
    sample = others[np.linspace(0, len(others) - 1, left).astype(np.int64)] if left else others[:0]
    return sorted({*first[:number], *sample.tolist()})


def _thumbnails(
    config: Config, sets: Mapping[str, Annotations], shown: NDArray[np.int64], chosen: Sequence[int]
) -> dict[str, str]:
    """Return the thumbnails by position on the page."""
    files = [file for records in sets.values() for file in records.files]
    with progress_bar() as bar:
        task = bar.add_task("thumbnails", total=len(chosen))
        found = thumbnails(
            [files[int(shown[k])] for k in chosen],
            SIDE,
            get_format(config.data.format).read_image,
            lambda: bar.advance(task),
        )
    return {str(k): image for k, image in zip(chosen, found, strict=True) if image is not None}
