"""Issues that need the decoded images or several splits: unreadable, rotated and repeated images, classes that differ."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from detection.data.annotations import Annotations, TrainObjects
from detection.data.image import MAX_PIXELS, UnreadableImage, WrongChannels, is_rotated, read_image
from detection.data.issues import Issue

FEW = 10  # objects of a class; with fewer it is hardly learned


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


def decode_image(file: str, max_pixels: int = MAX_PIXELS, channels: int = 3) -> ImageInfo:
    """Decode a whole image; a file that cannot be read gives a result with its error."""
    try:
        pixels = read_image(file, max_pixels, channels)
        with Image.open(file) as image:
            mode, rotated = image.mode, is_rotated(image)
    except (UnreadableImage, WrongChannels, OSError) as error:
        return ImageInfo(0, 0, "", False, "", str(error))
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, key=str(pixels.shape).encode()).hexdigest()
    return ImageInfo(pixels.shape[0], pixels.shape[1], mode, rotated, digest, "")


def image_issues(records: Annotations, i: int, info: ImageInfo) -> Iterable[Issue]:
    """Yield the issues of the file of image i, and where its size is not the one that is used."""
    file = records.files[i]
    if info.error:
        yield Issue("unreadable image", file, None, info.error)
        return
    used = int(records.sizes[i, 0]), int(records.sizes[i, 1])
    if used != (info.height, info.width):
        found = f"{used[0]}x{used[1]}, the image is {info.height}x{info.width}"
        yield Issue("another size stated", records.source(i), None, found)
    if info.rotated:
        yield Issue("rotated image", file)
    if info.mode != "RGB":
        yield Issue("not RGB", file, None, f"mode {info.mode}")


def duplicate_images(splits: Mapping[str, Sequence[tuple[str, str]]]) -> Iterable[Issue]:
    """Yield an issue for each image with the pixels of an earlier one; ``splits`` has the (file, digest) of each."""
    first: dict[str, tuple[str, str]] = {}
    for name, images in splits.items():
        for file, digest in images:
            if not digest:
                continue
            if digest in first and first[digest] != (name, file):
                other_split, other = first[digest]
                kind = "same image twice" if other_split == name else "image in train and val"
                yield Issue(kind, file, None, f"the same as {other}")
            first.setdefault(digest, (name, file))


def few_objects(records: Annotations, objects: TrainObjects) -> Iterable[Issue]:
    """Yield an issue for each class with objects to train on, but fewer than ten."""
    counts = np.bincount(records.labels[objects.keep], minlength=len(records.classes) + 1)[1:]
    for name, count in zip(records.classes, counts.tolist(), strict=True):
        if 0 < count < FEW:
            yield Issue("class with few objects", records.name, None, f"{name}: {count}")


def class_counts(records: Annotations) -> dict[str, int]:
    """Return the number of objects by class, all classes included."""
    counts = np.bincount(records.labels, minlength=len(records.classes) + 1)[1:]
    return dict(zip(records.classes, counts.tolist(), strict=True))


def name_form(name: str) -> str:
    """Return a class name without case, blanks, - and _."""
    return "".join(name.casefold().replace("_", " ").replace("-", " ").split())


def class_issues(splits: Mapping[str, Annotations]) -> Iterable[Issue]:
    """Yield an issue for each class without objects in one or all splits, for names that differ in case or blanks alone,
    and for classes whose order or ids differ between the splits."""
    counts = {name: class_counts(records) for name, records in splits.items()}
    sources = {name: records.name for name, records in splits.items()}
    names = sorted({label for of_split in counts.values() for label in of_split})
    for label in names:
        of_label = {name: of_split.get(label, 0) for name, of_split in counts.items()}
        if not any(of_label.values()):
            yield Issue("class without objects", next(iter(sources.values())), None, label)
        elif not all(of_label.values()):
            empty = next(name for name, count in of_label.items() if not count)
            yield Issue("class in one set alone", sources[empty], None, f"{label}: none in {empty}")
    first: dict[str, str] = {}
    for label in names:
        form = name_form(label)
        if form in first:
            yield Issue("class names alike", next(iter(sources.values())), None, f"{first[form]!r} and {label!r}")
        first.setdefault(form, label)
    (one, *others) = splits.values()
    for other in others:
        ids = dict(zip(one.classes, one.category_ids, strict=True))
        changed = [
            f"{name} has {ids[name]} and {i}"
            for name, i in zip(other.classes, other.category_ids, strict=True)
            if ids.get(name, i) != i
        ]
        if changed and one.sources is None:
            found = f"ids in {one.name} and here differ: {', '.join(changed[:3])}"
            yield Issue("classes in another order", other.name, None, found)
