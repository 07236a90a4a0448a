"""What can be wrong with a data set: kinds of faults and what becomes of each, and the checks of boxes and pictures that
every format shares."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detection.data.image import UnreadableImage, read_image

Box = tuple[float, float, float, float]
DROPS = "drops"  # something is lost to training
NOTE = "note"  # good to know
REFUSES = "training refuses to start"

# kind -> whether something is lost, and what training does about it
KINDS: dict[str, tuple[str, str]] = {
    "broken annotations": (DROPS, REFUSES),
    "unknown class": (DROPS, REFUSES),
    "repeated name": (DROPS, REFUSES),
    "missing picture": (DROPS, "left out"),
    "missing annotations": (DROPS, "the picture is left out"),
    "stray annotation": (DROPS, "left out: its picture is not listed"),
    "unreadable picture": (DROPS, "left out, or replaced by the next one; an evaluation finds nothing on it"),
    "degenerate box": (DROPS, "left out: no width or no height"),
    "box outside": (DROPS, "left out: nothing of it lies on the picture"),
    "repeated box": (DROPS, "used once"),
    "picture in train and val": (DROPS, "used; numbers on val then flatter"),
    "same picture twice": (NOTE, "used twice"),
    "box across the edge": (NOTE, "cut off at the edge"),
    "another size stated": (NOTE, "the picture's own counts (COCO: boxes are cut off at the stated one)"),
    "another file name stated": (NOTE, "the annotations' own name counts"),
    "turned picture": (NOTE, "turned as its EXIF says"),
    "not RGB": (NOTE, "converted"),
    "unused file": (NOTE, "not read: in no set that is used"),
    "class without objects": (NOTE, "the detector has an output for it that never learns"),
    "class in one set alone": (NOTE, "nothing to learn from, or nothing to measure by"),
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: its kind (a key of KINDS), the file, the object within it (its number from 1, or its id), and
    what was found."""

    kind: str
    file: str
    object: str | None = None
    found: str = ""

    @property
    def drops(self) -> bool:
        """Whether something is lost."""
        return KINDS[self.kind][0] == DROPS

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "drops": self.drops, "then": KINDS[self.kind][1]}


@dataclass(frozen=True)
class Annotated:
    """A picture as its annotations have it: its file, the stated (height, width), and of each object its number or id,
    class, box (xyxy, exclusive right and bottom edges), and whether it is a crowd or difficult."""

    file: Path
    annotations: str
    stated: tuple[int, int] | None
    objects: list[tuple[str, str, Box, bool]]


@dataclass(frozen=True)
class Picture:
    """What decoding a file tells: (height, width) after turning, 0 x 0 where it cannot be read; Pillow's mode; whether EXIF
    turns it; a digest of its pixels; the error."""

    height: int
    width: int
    mode: str
    turned: bool
    digest: str
    error: str


def inspect_picture(file: str) -> Picture:
    """Decodes all of a picture."""
    try:
        pixels = read_image(file)
        with Image.open(file) as image:
            mode, turned = image.mode, image.getexif().get(0x0112, 1) in range(2, 9)
    except (UnreadableImage, OSError) as error:
        return Picture(0, 0, "", False, "", str(error))
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, key=str(pixels.shape).encode()).hexdigest()
    return Picture(pixels.shape[0], pixels.shape[1], mode, turned, digest, "")


def picture_faults(image: Annotated, picture: Picture) -> Iterable[Fault]:
    """Of one file, beside what its annotations say of it."""
    file = str(image.file)
    if picture.error:
        yield Fault("unreadable picture", file, None, picture.error)
        return
    if image.stated is not None and image.stated != (picture.height, picture.width):
        stated = "x".join(map(str, image.stated))
        yield Fault("another size stated", image.annotations, None, f"{stated}, it is {picture.height}x{picture.width}")
    if picture.turned:
        yield Fault("turned picture", file)
    if picture.mode != "RGB":
        yield Fault("not RGB", file, None, f"mode {picture.mode}")


def box_faults(image: Annotated, size: tuple[int, int] | None) -> Iterable[Fault]:
    """Of one picture's boxes; ``size`` is its (height, width), where it is known."""
    seen: set[tuple[str, Box]] = set()
    for number, label, box, _ in image.objects:
        x1, y1, x2, y2 = box
        text = f"{label} {', '.join(f'{v:g}' for v in box)}"
        if not (np.isfinite(box).all() and x2 > x1 and y2 > y1):
            yield Fault("degenerate box", image.annotations, number, text)
            continue
        if size is not None:
            height, width = size
            if min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
                yield Fault("box outside", image.annotations, number, f"{text}, the picture is {height}x{width}")
                continue
            if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
                yield Fault(
                    "box across the edge", image.annotations, number, f"{text}, the picture is {height}x{width}"
                )
        if (label, box) in seen:
            yield Fault("repeated box", image.annotations, number, text)
        seen.add((label, box))


def same_pictures(sets: Mapping[str, Sequence[tuple[str, str]]]) -> Iterable[Fault]:
    """Pictures of the same content; ``sets`` has (file, digest) of the training and validation sets."""
    first: dict[str, tuple[str, str]] = {}
    for name, pictures in sets.items():
        for file, digest in pictures:
            if not digest:
                continue
            if digest in first and first[digest] != (name, file):
                other_set, other = first[digest]
                kind = "same picture twice" if other_set == name else "picture in train and val"
                yield Fault(kind, file, None, f"the same as {other}")
            first.setdefault(digest, (name, file))


def class_faults(sets: dict[str, dict[str, int]], where: dict[str, str]) -> Iterable[Fault]:
    """Classes that no object has, in any set or in one; ``sets`` has the objects of each class."""
    for label in sorted({label for counts in sets.values() for label in counts}):
        counts = {name: own.get(label, 0) for name, own in sets.items()}
        if not any(counts.values()):
            yield Fault("class without objects", next(iter(where.values())), None, label)
        elif not all(counts.values()):
            absent = next(name for name, count in counts.items() if not count)
            yield Fault("class in one set alone", where[absent], None, f"{label}: none in {absent}")
