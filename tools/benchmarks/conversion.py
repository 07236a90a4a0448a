"""Convert datasets through every pair of COCO, VOC and YOLO, and print a table of what differs from the original."""

import argparse
import itertools
import logging
import tempfile
from pathlib import Path

import numpy as np

from detection.data.annotations import Annotations, train_objects
from detection.data.formats import open_split
from detection.data_tools.writers import WRITERS, write_dataset

# format, folder under --root, split
SETS = {
    "bccd": ("voc", "bccd", "train"),
    "voc100": ("voc", "voc100", "train"),
    "coco549": ("coco", "coco549", "train2017"),
}


def run(args: argparse.Namespace) -> int:
    if args.root is None:
        raise SystemExit("--root FOLDER: with the folders bccd, voc100 and coco549")
    logging.disable(logging.WARNING)
    columns = ["set", "way", "images", "objects", "lost", "largest box difference, px", "float32 boxes that differ"]
    columns += ["classes", "image ids, category ids", "flags", "areas"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name, (format, folder, split) in SETS.items():
        original = open_split(format, args.root / folder, split)
        for first, second in itertools.product(WRITERS, repeat=2):
            with tempfile.TemporaryDirectory() as scratch:
                there = convert(original, Path(scratch) / "a", first)
                back = convert(there, Path(scratch) / "b", second)
                print(
                    f"| {name} | {format} → {first} → {second} | {' | '.join(differences(original, back))} |",
                    flush=True,
                )
    return 0


def convert(records: Annotations, folder: Path, to: str) -> Annotations:
    """Write records in a format, and read them again."""
    write_dataset({"train": records}, folder, to)
    return open_split(to, folder, "train")


def differences(a: Annotations, b: Annotations) -> list[str]:
    """Return the columns of the table: what of ``a`` differs in ``b``, whose objects may be fewer."""
    match = matched(a, b)
    lost = np.setdiff1d(np.arange(len(a.labels)), match)
    reasons = {"crowd": a.crowd, "difficult": a.difficult & ~a.crowd}
    text = ", ".join(f"{int(mask[lost].sum())} {reason}" for reason, mask in reasons.items() if mask[lost].any())
    other = len(lost) - sum(int(mask[lost].sum()) for mask in reasons.values())
    boxes = np.abs(a.boxes[match] - b.boxes)
    single = (a.boxes[match].astype(np.float32) != b.boxes.astype(np.float32)).any(axis=1)
    kept = train_objects(a, keep_difficult=False).keep[match] != train_objects(b, keep_difficult=False).keep
    names = [a.classes[k - 1] for k in a.labels[match]] == [b.classes[k - 1] for k in b.labels]
    classes = "in order" if a.classes == b.classes else "other order" if names else "differ"
    if set(a.classes) - set(b.classes):
        classes += f", {len(set(a.classes) - set(b.classes))} without objects lost"
    numbers = [str(x).lstrip("0") or "0" for x in b.image_ids]  # COCO's file names have leading zeros
    ids = [*map(str, a.image_ids)] in (numbers, [*map(str, b.image_ids)])
    category_ids = a.category_ids == b.category_ids
    crowd, difficult = (int((getattr(a, key)[match] != getattr(b, key)).sum()) for key in ("crowd", "difficult"))
    flags = f"{crowd} crowd, {difficult} difficult differ" if crowd or difficult else "same"
    areas = int((~np.isclose(a.areas[match], b.areas, rtol=1e-6)).sum())
    return [
        str(len(b)),
        str(len(b.labels)),
        text + (f", {other} others" if other else "") or "0",
        f"{boxes.max(initial=0):.1e}",
        str(int(single.sum())) + (f" ({int(kept.sum())} of which training then drops)" if kept.any() else ""),
        classes,
        f"{'same' if ids else '1 to N'}, {'same' if category_ids else '1 to K'}",
        flags,
        f"{areas} differ" if areas else "same",
    ]


def matched(a: Annotations, b: Annotations) -> np.ndarray:
    """Return for each object of ``b`` the object of ``a`` that it is, int64: images are in the same order, and so are the
    objects of an image, of which crowd and difficult ones may be missing."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} images became {len(b)}")
    match = []
    for i in range(len(a)):
        rows, others = a.objects(i), b.objects(i)
        if rows.stop - rows.start == others.stop - others.start:
            match += range(rows.start, rows.stop)
        else:
            match += [j for j in range(rows.start, rows.stop) if not (a.crowd[j] or a.difficult[j])]
    return np.array(match, dtype=np.int64)
