"""Write annotations in COCO's, VOC's and YOLO's format, with their images linked or copied.

Boxes are written with all their digits, so that they are the same when read again; what a format cannot hold is returned as
sentences. COCO: ``annotations/instances_SPLIT.json`` and ``SPLIT/``. VOC: ``Annotations/``, ``JPEGImages/``,
``ImageSets/Main/SPLIT.txt``, and the classes in order in ``labelmap.txt``, as CVAT writes it. YOLO: ``images/SPLIT/``,
``labels/SPLIT/`` and ``data.yaml``, as Ultralytics reads it.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from detection.data.annotations import Annotations, DataError, first_few
from detection.data_tools.folders import Images, image_names, new_folder, place_images
from detection.utils.atomic_io import write_json, write_text

Names = Mapping[str, list[str]]  # of the images' files, by split
Writer = Callable[[Mapping[str, Annotations], Names, Path, Images], list[str]]


def write_dataset(
    splits: Mapping[str, Annotations],
    output: Path,
    to: str,
    images: Images = "link",
    option: str = "--output FOLDER",
    names: Names | None = None,
) -> list[str]:
    """Write splits as one dataset into a new folder, whole or not at all.

    Args:
        splits: of one list of classes, by name; train and val are what other YOLO tools look for.
        output: the folder, which must not exist, or be empty.
        to: coco, voc or yolo.
        images: link (hard links, or symbolic ones on another disk), copy, or none.
        option: of the command that names the folder, for messages.
        names: file names of each split's images; None takes those that they have.

    Returns:
        What the format cannot hold, a sentence each.

    Raises:
        DataError: no such format, splits of different classes, or names that the format cannot hold.
        FileExistsError: the folder has content.
        OSError: a file cannot be written.
    """
    if to not in WRITERS:
        raise DataError(f"datasets are written as {', '.join(WRITERS)}, not {to!r}")
    if len({records.classes for records in splits.values()}) > 1:
        raise DataError(
            "splits of one dataset have the same classes, got "
            + "; ".join(f"{name}: {', '.join(records.classes)}" for name, records in splits.items())
        )
    for name in splits:
        if not name or name.strip() != name or {"/", "\\"} & set(name):
            raise DataError(f"{name!r} cannot be the name of a split: it becomes a folder and a file")
    with new_folder(Path(output), option) as folder:
        return WRITERS[to](
            splits, names or {split: image_names(records) for split, records in splits.items()}, folder, images
        )


def write_coco(splits: Mapping[str, Annotations], of_images: Names, folder: Path, images: Images) -> list[str]:
    """Write COCO's JSON files; see :func:`write_dataset`."""
    (folder / "annotations").mkdir()
    lost = []
    for split, records in splits.items():
        names = of_images[split]
        write_json(folder / "annotations" / f"instances_{split}.json", coco_content(records, names), indent=None)
        place_images(records, names, folder / split, images)
        if _coco_ids(records) != list(records.image_ids):
            lost.append(f"{split}: image ids are numbers from 1: COCO's are no names (file_name keeps the names)")
    return lost


def coco_content(records: Annotations, names: Sequence[str]) -> dict[str, Any]:
    """Return annotations in COCO's format, of images with these file names; ``difficult`` is a key of its own.

    Image ids that are texts become numbers: the same where all are numbers and distinct, else from 1. Annotation ids start
    at 1: pycocotools treats an id of 0 as unmatched.
    """
    ids = _coco_ids(records)
    xyxy = records.boxes.tolist()
    categories, crowd, difficult = records.labels - 1, records.crowd.tolist(), records.difficult.tolist()
    category_of = np.array(records.category_ids)[categories].tolist() if len(categories) else []
    annotations = [
        {
            "id": j + 1,
            "image_id": ids[i],
            "category_id": category_of[j],
            "bbox": [xyxy[j][0], xyxy[j][1], xyxy[j][2] - xyxy[j][0], xyxy[j][3] - xyxy[j][1]],
            "area": area,
            "iscrowd": int(crowd[j]),
        }
        | ({"difficult": 1} if difficult[j] else {})
        for j, (i, area) in enumerate(zip(records.image_of().tolist(), records.areas.tolist(), strict=True))
    ]
    return {
        "images": [
            {"id": image, "file_name": name, "height": height, "width": width}
            for image, name, (height, width) in zip(ids, names, records.sizes.tolist(), strict=True)
        ],
        "annotations": annotations,
        "categories": [{"id": c, "name": n} for c, n in zip(records.category_ids, records.classes, strict=True)],
    }


def _coco_ids(records: Annotations) -> list[int]:
    ids = list(records.image_ids)
    if not all(isinstance(image, int) for image in ids):
        texts = [str(image) for image in ids]
        ids = [int(text) for text in texts if text.isascii() and text.isdecimal()]
        if len(set(ids)) < len(texts):
            return list(range(1, len(texts) + 1))
    return ids


def write_voc(splits: Mapping[str, Annotations], of_images: Names, folder: Path, images: Images) -> list[str]:
    """Write VOC's XML files and image sets; see :func:`write_dataset`."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    classes, lost, taken = next(iter(splits.values())).classes, [], set[str]()
    if odd := [name for name in classes if name != name.strip() or not name.isprintable()]:
        raise DataError(f"VOC's XML cannot hold the class names {first_few([*map(repr, odd)])}: rename them")
    for split, records in splits.items():
        names = of_images[split]
        if taken & {_stem(name) for name in names}:  # VOC has one folder for the images of all splits
            names = [f"{split}/{name}" for name in names]
            lost.append(f"{split}: names of images became {split}/NAME: another split has some of them")
        stems = [_stem(name) for name in names]
        taken |= {*stems}
        for i, (name, stem) in enumerate(zip(names, stems, strict=True)):
            path = folder / "Annotations" / f"{stem}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_xml(records, i, name), encoding="utf-8")
        write_text(folder / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
        place_images(records, names, folder / "JPEGImages", images)
        lost += [f"{split}: {sentence}" for sentence in _lost_by_voc(records)]
    labels = "".join(f"{name}:::\n" for name in classes)
    write_text(folder / "labelmap.txt", f"# label:color_rgb:parts:actions\n{labels}")
    return lost


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _lost_by_voc(records: Annotations) -> list[str]:
    narrow = int((((size := _sizes(records)) > 0) & (size <= 1)).any(axis=1).sum())
    return [
        *([f"{n} crowd regions became difficult objects: VOC has no crowd"] if (n := int(records.crowd.sum())) else []),
        *_lost_ids(records),
        *_lost_areas(records),
        *(
            [f"{narrow} boxes of at most one pixel's width or height are degenerate in VOC, whose corners are pixels"]
            if narrow
            else []
        ),
    ]


def _lost_ids(records: Annotations) -> list[str]:
    own = records.category_ids != tuple(range(1, len(records.classes) + 1))
    return ["category ids became 1 to K"] if own else []


def _lost_areas(records: Annotations) -> list[str]:
    kept = ~(records.crowd | records.difficult)
    other = ~np.isclose(records.areas, _sizes(records).clip(0).prod(axis=1), rtol=1e-6)
    count = int((other & kept).sum())
    return [f"{count} areas became those of the boxes (AP by object size will differ)"] if count else []


def _sizes(records: Annotations) -> NDArray[np.float64]:
    """Return the (width, height) of each box, [M, 2]."""
    return np.asarray(records.boxes[:, 2:] - records.boxes[:, :2])


def _xml(records: Annotations, i: int, name: str) -> str:
    """Return the XML of image i: corners 1-based and inclusive, whole numbers where they are."""
    height, width = records.sizes[i].tolist()
    lines = [
        "<annotation>",
        f"\t<filename>{escape(name.rpartition('/')[2])}</filename>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    rows = records.objects(i)
    ignored = (records.crowd[rows] | records.difficult[rows]).tolist()
    boxes, labels = records.boxes[rows].tolist(), records.labels[rows].tolist()
    for (x1, y1, x2, y2), label, difficult in zip(boxes, labels, ignored, strict=True):
        # a degenerate box is not shifted when it is read (detection/data/readers/voc_xml.py)
        corners = (x1 + 1 if x2 > x1 else x1, y1 + 1 if y2 > y1 else y1, x2, y2)
        tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
        lines += [
            "\t<object>",
            f"\t\t<name>{escape(records.classes[label - 1])}</name>",
            f"\t\t<difficult>{int(difficult)}</difficult>",
            "\t\t<bndbox>" + "".join(f"<{tag}>{_number(value)}</{tag}>" for tag, value in tags) + "</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>\n"])


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def write_yolo(splits: Mapping[str, Annotations], of_images: Names, folder: Path, images: Images) -> list[str]:
    """Write YOLO's text files and data.yaml; see :func:`write_dataset`."""
    first, lost = next(iter(splits.values())), []
    content: dict[str, Any] = {}
    for split, records in splits.items():
        names = of_images[split]
        _write_labels(records, names, folder / "labels" / split)
        (folder / "images" / split).mkdir(parents=True)
        place_images(records, names, folder / "images" / split, images)
        content[split] = f"images/{split}"
        if names != sorted(names):  # a folder is read in the order of its names
            write_text(folder / f"{split}.txt", "".join(f"./images/{split}/{name}\n" for name in names))
            content[split] = f"{split}.txt"
        lost += [f"{split}: {sentence}" for sentence in _lost_by_yolo(records, names)]
    content |= {"nc": len(first.classes), "names": dict(enumerate(first.classes))}
    if first.category_ids != tuple(range(1, len(first.classes) + 1)):
        content["category_ids"] = list(first.category_ids)  # ours alone; other tools pass over it
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(content, stream)
    write_text(folder / "data.yaml", stream.getvalue())
    return lost


def _write_labels(records: Annotations, names: Sequence[str], folder: Path) -> None:
    """Write an image's objects to a text file each: class, and centre and size of the box as fractions of the image's."""
    sides = np.repeat(records.sizes[:, ::-1], np.diff(records.offsets), axis=0)
    centres = (records.boxes[:, :2] + records.boxes[:, 2:]) / 2
    rows = np.concatenate((centres / sides, _sizes(records) / sides), axis=1).tolist()
    labels, kept = (records.labels - 1).tolist(), (~(records.crowd | records.difficult)).tolist()
    for parent in {(folder / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        objects = records.objects(i)
        lines = [f"{labels[j]} {' '.join(map(repr, rows[j]))}\n" for j in range(objects.start, objects.stop) if kept[j]]
        (folder / f"{_stem(name)}.txt").write_text("".join(lines), encoding="utf-8")


def _lost_by_yolo(records: Annotations, files: Sequence[str]) -> list[str]:
    crowd, difficult = int(records.crowd.sum()), int((records.difficult & ~records.crowd).sum())
    named = any(isinstance(image, int) for image in records.image_ids)
    names = [str(image) for image in records.image_ids]
    stems = [_stem(name) for name in files]
    other = named and any(not s.isdecimal() or int(s) != int(n) for s, n in zip(stems, names, strict=True))
    return [
        *([f"{crowd} crowd regions were left out: YOLO has none"] if crowd else []),
        *([f"{difficult} difficult objects were left out: YOLO has none"] if difficult else []),
        *(["image ids became the files' names"] if other else []),
        *_lost_areas(records),
    ]


WRITERS: dict[str, Writer] = {"coco": write_coco, "voc": write_voc, "yolo": write_yolo}


def report_written(splits: Mapping[str, Annotations], output: Path, to: str, lost: Sequence[str]) -> str:
    """Return what a command says of a dataset that it wrote: counts, what is lost, and the keys to use it by."""
    counts = [f"{name} {len(r)} images, {len(r.labels)} objects" for name, r in splits.items()]
    keys = [f"data.{key}={key if key in splits else 'null'}" for key in ("train", "val")]
    return "\n".join(
        [
            f"written to {output}: {'; '.join(counts)}; {len(next(iter(splits.values())).classes)} classes",
            *(f"  not kept: {sentence}" for sentence in lost),
            f"use it with: data.format={to} data.root={output} {' '.join(keys)}",
        ]
    )
