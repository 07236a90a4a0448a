"""Kinds of dataset issues and their consequences for training, and the checks of boxes and images for all formats."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.data.image import UnreadableImage, read_image

Box = tuple[float, float, float, float]
DROPS = "drops"  # training loses data
NOTE = "note"  # for information
REFUSES = "training refuses to start"

# kind, as written to dataset.json -> severity, and what training does about it
KINDS: dict[str, tuple[str, str]] = {
    "broken annotations": (DROPS, REFUSES),
    "unknown class": (DROPS, REFUSES),
    "repeated name": (DROPS, REFUSES),
    "missing picture": (DROPS, "skipped"),
    "missing annotations": (DROPS, "the image is skipped"),
    "stray annotation": (DROPS, "skipped: its image is not listed"),
    "unreadable picture": (DROPS, "skipped, or replaced by the next image; evaluated with no detections"),
    "degenerate box": (DROPS, "dropped: no width or no height"),
    "box outside": (DROPS, "dropped: does not overlap the image"),
    "repeated box": (DROPS, "duplicates are dropped"),
    "picture in train and val": (DROPS, "used; inflates the metrics on val"),
    "same picture twice": (NOTE, "used twice"),
    "box across the edge": (NOTE, "clipped to the image"),
    "another size stated": (NOTE, "the size of the image file is used (COCO: boxes are clipped to the annotated size)"),
    "another file name stated": (NOTE, "the image of the annotation file's name is used"),
    "turned picture": (NOTE, "rotated by its EXIF orientation"),
    "not RGB": (NOTE, "converted to RGB"),
    "unused file": (NOTE, "not read: in none of the splits used"),
    "class without objects": (NOTE, "its output of the detector is never trained"),
    "class in one set alone": (NOTE, "no training objects, or no ground truth to evaluate on"),
}


@dataclass(frozen=True)
class Issue:
    """One issue of a dataset.

    Attributes:
        kind: a key of KINDS.
        file: the file that has it.
        object: number from 1, or id, of the object in the file.
        found: the offending value.
    """

    kind: str
    file: str
    object: str | None = None
    found: str = ""

    @property
    def drops(self) -> bool:
        """Return whether training loses data."""
        return KINDS[self.kind][0] == DROPS

    def to_json(self) -> dict[str, Any]:
        """Return the issue as a JSON object, with its severity and consequence."""
        return {**asdict(self), "drops": self.drops, "then": KINDS[self.kind][1]}


@dataclass(frozen=True)
class AnnotatedImage:
    """The annotations of an image.

    Attributes:
        file: the image file.
        annotations: the annotation file, for messages.
        annotated_size: (height, width) in the annotations, None where missing.
        objects: (number or id, class, box xyxy with exclusive right and bottom edges, crowd or difficult) each.
    """

    file: Path
    annotations: str
    annotated_size: tuple[int, int] | None
    objects: list[tuple[str, str, Box, bool]]


@dataclass(frozen=True)
class ImageInfo:
    """The result of decoding an image.

    Attributes:
        height, width: after EXIF rotation; 0 where the file is unreadable.
        mode: Pillow's mode.
        rotated: the EXIF orientation is not the default.
        digest: of the pixels.
        error: empty where the file is readable.
    """

    height: int
    width: int
    mode: str
    rotated: bool
    digest: str
    error: str


def decode_image(file: str) -> ImageInfo:
    """Decode a whole image; a file that cannot be read gives a result with its error."""
    try:
        pixels = read_image(file)
        with Image.open(file) as image:
            mode, rotated = image.mode, image.getexif().get(0x0112, 1) in range(2, 9)
    except (UnreadableImage, OSError) as error:
        return ImageInfo(0, 0, "", False, "", str(error))
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, key=str(pixels.shape).encode()).hexdigest()
    return ImageInfo(pixels.shape[0], pixels.shape[1], mode, rotated, digest, "")


def image_issues(image: AnnotatedImage, info: ImageInfo) -> Iterable[Issue]:
    """Yield the issues of an image file, and where it disagrees with its annotations."""
    file = str(image.file)
    if info.error:
        yield Issue("unreadable picture", file, None, info.error)
        return
    if image.annotated_size is not None and image.annotated_size != (info.height, info.width):
        size = "x".join(map(str, image.annotated_size))
        yield Issue("another size stated", image.annotations, None, f"{size}, the image is {info.height}x{info.width}")
    if info.rotated:
        yield Issue("turned picture", file)
    if info.mode != "RGB":
        yield Issue("not RGB", file, None, f"mode {info.mode}")


def box_issues(image: AnnotatedImage, size: tuple[int, int] | None) -> Iterable[Issue]:
    """Yield the issues of an image's boxes; ``size`` is its (height, width), None where unknown."""
    previous: set[tuple[str, Box]] = set()
    for number, label, box, _ in image.objects:
        x1, y1, x2, y2 = box
        text = f"{label} {', '.join(f'{v:g}' for v in box)}"
        if not (np.isfinite(box).all() and x2 > x1 and y2 > y1):
            yield Issue("degenerate box", image.annotations, number, text)
            continue
        if size is not None:
            height, width = size
            if min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
                yield Issue("box outside", image.annotations, number, f"{text}, the image is {height}x{width}")
                continue
            if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
                yield Issue("box across the edge", image.annotations, number, f"{text}, the image is {height}x{width}")
        if (label, box) in previous:
            yield Issue("repeated box", image.annotations, number, text)
        previous.add((label, box))


def duplicate_images(splits: Mapping[str, Sequence[tuple[str, str]]]) -> Iterable[Issue]:
    """Yield an issue for each image with the pixels of an earlier one; ``splits`` has the (file, digest) of each."""
    first: dict[str, tuple[str, str]] = {}
    for name, images in splits.items():
        for file, digest in images:
            if not digest:
                continue
            if digest in first and first[digest] != (name, file):
                other_split, other = first[digest]
                kind = "same picture twice" if other_split == name else "picture in train and val"
                yield Issue(kind, file, None, f"the same as {other}")
            first.setdefault(digest, (name, file))


def class_issues(splits: dict[str, dict[str, int]], sources: dict[str, str]) -> Iterable[Issue]:
    """Yield an issue for each class without objects in one or all splits.

    Args:
        splits: number of objects by class, for each split.
        sources: the file that lists the images of each split.
    """
    for label in sorted({label for counts in splits.values() for label in counts}):
        counts = {name: split_counts.get(label, 0) for name, split_counts in splits.items()}
        if not any(counts.values()):
            yield Issue("class without objects", next(iter(sources.values())), None, label)
        elif not all(counts.values()):
            empty = next(name for name, count in counts.items() if not count)
            yield Issue("class in one set alone", sources[empty], None, f"{label}: none in {empty}")
