"""What a report is made of: a run's folder, or anyone's detections and ground truth."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.config import Config, load_config
from detection.data.annotations import Annotations, DataError
from detection.data.coco import image_folder, read_coco_file
from detection.data.image import SUFFIXES, read_image
from detection.data.opening import open_source
from detection.data.voc import read_voc_ground_truth
from detection.evaluation.results_io import read_detections

_LOG = logging.getLogger(__name__)
ImageOf = Callable[[str], NDArray[np.uint8]]
_SCORE = 0.05  # detections' least score in most papers
RUN_DETECTIONS, RUN_GROUND_TRUTH = "detections.json", "ground_truth.json"


@dataclass(frozen=True)
class Inputs:
    """A data set's ground truth and detections, and where its images are.

    Attributes:
        title: a short name.
        ground_truth: COCO annotations.
        detections: COCO results.
        read: reads an image by its file name in the annotations, uint8 RGB [H, W, 3]; None where there are no images.
        facts: by name, for the header.
        warnings: what a reader should know before comparing numbers.
        run: a run's folder, or None.
        train, val: the run's data sets, where their files are at hand.
        read_file: reads an image by its path in those.
    """

    title: str
    ground_truth: dict[str, Any]
    detections: list[dict[str, Any]]
    read: ImageOf | None = None
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    run: Path | None = None
    train: Annotations | None = None
    val: Annotations | None = None
    read_file: ImageOf | None = None


def open_inputs(
    first: Path, second: Path | None, *, images: Path | None = None, image_set: str | None = None
) -> Inputs:
    """Return a run's evaluation, or that of two files.

    Args:
        first: a run's folder; or detections, where ``second`` is given.
        second: COCO annotations or a VOC folder.
        images: folder of the images; None looks beside the annotations.
        image_set: of a VOC folder.

    Raises:
        DataError, FileNotFoundError: no such run or file, or it cannot be read; says what is missing.
    """
    if second is None:
        if not first.is_dir():
            raise DataError(f"{first} is no run's folder: give one, or detections and their ground truth")
        return from_run(first, images)
    return from_files(first, second, images, image_set)


def from_files(detections: Path, ground_truth: Path, images: Path | None, image_set: str | None) -> Inputs:
    """Return the inputs of a detections file and COCO annotations or a VOC folder."""
    is_voc = ground_truth.is_dir()
    records = read_voc_ground_truth(ground_truth, image_set) if is_voc else read_coco_file(ground_truth)
    truth = _with_entries(records.to_coco(), ground_truth)
    names = [image["file_name"] for image in truth["images"]]
    folder = images or find_images(ground_truth, names)
    return Inputs(
        title=f"{detections.stem} on {ground_truth.stem}",
        ground_truth=truth,
        detections=read_detections(detections, truth),
        read=None if folder is None else functools.partial(read_from, folder),
        facts={
            "detections": str(detections),
            "detections' SHA-256": _sha256(detections),
            "ground truth": str(ground_truth),
            "data fingerprint": fingerprint(truth),
            "images": None if folder is None else str(folder),
        },
    )


def other_detections(path: Path, inputs: Inputs) -> Inputs:
    """Return the inputs with the detections of another file."""
    detections = read_detections(path, inputs.ground_truth)
    return dataclasses.replace(inputs, title=path.stem, detections=detections)


def from_run(folder: Path, images: Path | None = None) -> Inputs:
    """Return the last evaluation of a run.

    Raises:
        DataError: the folder has no evaluation, or its ground truth is not found.
    """
    if not (folder / RUN_DETECTIONS).is_file():
        raise DataError(f"{folder} has no {RUN_DETECTIONS}: it is no run that was evaluated")
    config: Config | None = None
    source = None
    if (folder / "config.yaml").is_file():
        config = load_config(folder / "config.yaml", ())
        try:
            source = open_source(config.data, config_name=str(folder / "config.yaml"))
        except (DataError, OSError) as error:
            _LOG.warning("the run's data are not found, images are left out: %s", str(error).splitlines()[0])
    if (folder / RUN_GROUND_TRUTH).is_file():
        truth = json.loads((folder / RUN_GROUND_TRUTH).read_text(encoding="utf-8"))
    elif source is not None and source.val is not None:
        truth = source.val.to_coco()
    else:
        raise DataError(f"{folder} has no {RUN_GROUND_TRUTH}, and its configuration's data are not found")
    read: ImageOf | None = None
    if images is not None:
        read = functools.partial(read_from, images)
    elif source is not None and source.val is not None:
        read = reader_of(source.val, source.read)
    return Inputs(
        title=folder.name or str(folder),
        ground_truth=truth,
        detections=read_detections(folder / RUN_DETECTIONS, truth),
        read=read,
        facts=run_facts(folder) | {"data fingerprint": fingerprint(truth)},
        warnings=_doubts(config),
        run=folder,
        train=None if source is None else source.train,
        val=None if source is None else source.val,
        read_file=None if source is None else source.read,
    )


def _doubts(config: Config | None) -> tuple[str, ...]:
    """Return which settings of a run make its AP incomparable with published numbers."""
    if config is None or config.model.roi.score_threshold <= _SCORE:
        return ()
    return (
        f"model.roi.score_threshold={config.model.roi.score_threshold:g}: detections with a lower score are not in the "
        f"results, which lowers AP; papers keep those down to {_SCORE:g}",
    )


def reader_of(records: Annotations, read: ImageOf) -> ImageOf:
    """Return a function that reads images by their names in ``records.to_coco()``."""
    files = {records.file_name(i): records.files[i] for i in range(len(records))}
    return lambda name: read(files[name])


def read_from(folder: Path, name: str) -> NDArray[np.uint8]:
    """Read an image by its name in the annotations, which may lack the extension (VOC)."""
    path = folder / name
    if not path.suffix and not path.is_file():
        path = next(
            (p for s in SUFFIXES for p in (folder / f"{name}{s}", folder / f"{name}{s.upper()}") if p.is_file()), path
        )
    return read_image(path)


def find_images(ground_truth: Path, names: list[str]) -> Path | None:
    """Return the folder with the images of annotations, or None where none of the usual ones has any."""
    if ground_truth.is_dir():
        folders = sorted({*ground_truth.glob("JPEGImages"), *ground_truth.glob("*/JPEGImages")})
        return folders[0] if len(folders) == 1 else None
    if not any(names):
        return None
    for root in (ground_truth.parent, ground_truth.parent.parent):
        try:
            return image_folder(
                root, ground_truth.stem.removeprefix("instances_"), ground_truth, [n for n in names if n]
            )
        except DataError:
            continue
    return None


def run_facts(folder: Path) -> dict[str, Any]:
    """Return what a run's files say about it: command, commit, seed, machine, versions, weights."""
    facts: dict[str, Any] = {"run": str(folder)}
    try:
        starts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        last = starts[-1]
        git = last.get("git") or {}
        facts |= {
            "command": last["command"],
            "commit": git.get("commit", "") + (" (changed)" if git.get("changed") else ""),
            "started": last["started"],
            "seed": last["seed"],
            "device": last["device"],
            "versions": ", ".join(f"{k} {v}" for k, v in last["versions"].items() if v),
        }
    except (OSError, ValueError, LookupError, TypeError):
        facts["command"] = None
    for name in ("best.pth", "last.pth"):
        if (folder / name).is_file():
            facts[f"{name}'s SHA-256"] = _sha256(folder / name)
            break
    return facts


def fingerprint(ground_truth: dict[str, Any]) -> str:
    """Return a hash of images, classes and boxes: equal for two evaluations on the same ground truth."""
    digest = hashlib.sha256()
    rows = [[str(im["id"]), str(im.get("file_name"))] for im in ground_truth["images"]]
    rows += [[str(c["id"]), str(c["name"])] for c in ground_truth["categories"]]
    rows += [
        [str(a["image_id"]), str(a["category_id"]), *(f"{v:.4f}" for v in a["bbox"]), str(int(bool(a.get("iscrowd"))))]
        for a in ground_truth["annotations"]
    ]
    digest.update(json.dumps(sorted(rows)).encode("ascii"))
    return digest.hexdigest()[:16]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_entries(truth: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the ground truth with the further keys of a COCO file's image entries, for slices."""
    if path.is_dir():
        return truth
    entries = {entry["id"]: entry for entry in json.loads(path.read_bytes())["images"] if "id" in entry}
    images = [{**entries.get(image["id"], {}), **image} for image in truth["images"]]
    return {**truth, "images": images}
