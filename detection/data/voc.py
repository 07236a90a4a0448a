"""Read PASCAL VOC folders (Annotations, JPEGImages, ImageSets/Main), one year or several joined, and folders of images
with their XML files beside them.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from detection.data.annotations import Annotations, DataError, Strings, finish_reading
from detection.data.cache import Arrays, cached, decode_json, encode_json
from detection.data.files import NearNames, in_threads, is_file, read_lines, stamp, walk
from detection.data.image import SUFFIXES, UnreadableImage, image_size
from detection.data.issues import Issue
from detection.data.readers.voc_xml import XmlFile, read_xml

_LOG = logging.getLogger(__name__)
_BOXES = "xmin, ymin, xmax, ymax"  # of an object
_XML_FOLDERS = ("annotations", "annotation", "xmls", "xml", "labels")  # without image sets


@dataclass(frozen=True)
class ImageSet:
    """A list of image names, and where their files are.

    Attributes:
        source: the file that lists the images, or the folder whose files they are.
        names: of the images, each with its sub-folder; ``image_ids`` later.
        images: folder of the images.
        annotations: folder of the XML files.
    """

    source: Path
    names: list[str]
    images: Path
    annotations: Path


def read_voc(root: str | Path, split: str, classes: Sequence[str] | None = None, *, strict: bool = True) -> Annotations:
    """Read one or several image sets.

    Images without XML and names without an image are skipped, with a warning that counts them.

    Args:
        root: a year's folder (with ImageSets), or the parent of such folders (VOC2007, VOC2012), or a folder whose
            sub-folders have images with their XML files beside them.
        split: "trainval", or "VOC2007/trainval+VOC2012/trainval"; a name without year joins the sets of all years that
            have it. Without ImageSets, a sub-folder.
        classes: class names in order; None takes those of ``labelmap.txt``, which CVAT writes, else the names in the
            annotations, sorted.
        strict: refuse broken files and log the issues; else all are in ``issues``, and what is broken is left out.

    Raises:
        DataError: no such image set, no images, or a class not in ``classes``; where strict, broken XML files.
    """
    root = Path(root)
    sets = [_read_image_set(image_set) for image_set in image_sets(root, split)]
    annotations = _join(f"{root}:{split}", sets, classes)
    if classes is None and (listed := _listed_classes(root, annotations.classes)):
        annotations = annotations.with_classes(listed, renumber=True)
    if not len(annotations) and not any(issue.refuses for issue in annotations.issues):
        issues = " ".join(str(issue) for issue in annotations.issues[:3])
        raise DataError(f"{root}: no image of image set {split!r} exists together with its XML. {issues}".rstrip(". "))
    return finish_reading(annotations, _BOXES, _LOG, strict=strict)


def _listed_classes(root: Path, used: Sequence[str]) -> list[str]:
    """Return the classes in the order of labelmap.txt, those that it lacks last; empty where there is none.

    A row is ``name:colour:parts:actions``; CVAT's class "background" counts where an object has it.
    """
    path = next((f / "labelmap.txt" for f in (root, *year_folders(root)) if is_file(f / "labelmap.txt")), None)
    if path is None:
        return []
    rows = [line.rsplit(":", 3) for line in read_lines(path) if line.strip() and not line.startswith("#")]
    names = [row[0].strip() for row in rows if len(row) == 4 and row[0].strip()]
    return list(dict.fromkeys([*(n for n in names if n != "background" or n in used), *used])) if names else []


def read_voc_ground_truth(root: Path, split: str | None = None) -> Annotations:
    """Read the annotations of a VOC folder by themselves, for evaluation; image ids are the names of the XML files.

    Images are not looked up, and their sizes may be 0.

    Args:
        root: with Annotations, or the parent of year folders that have it.
        split: an image set; None reads all XML files.

    Raises:
        DataError: no annotations, no such image set, duplicate image names, or broken XML files.
    """
    if split is not None:
        sets = image_sets(root, split)
    else:
        folders = [root / "Annotations", *root.glob("*/Annotations"), *root.glob("VOCdevkit/*/Annotations")]
        sets = [
            ImageSet(folder, [f[:-4] for f in walk(folder) if f.lower().endswith(".xml")], folder, folder)
            for folder in sorted(filter(Path.is_dir, folders))
        ]
    annotations = _join(str(root), [_read_image_set(image_set, images=False) for image_set in sets], None)
    if not len(annotations) and not any(issue.refuses for issue in annotations.issues):
        raise DataError(f"{root}: no VOC annotations found (Annotations/*.xml in it or in its year folders)")
    return finish_reading(annotations, _BOXES, _LOG, strict=True)


def year_folders(root: Path) -> list[Path]:
    """Return root itself, or else the folders under it, that have ImageSets/Main."""
    candidates = (
        [root] if (root / "ImageSets" / "Main").is_dir() else sorted([*root.glob("*"), *root.glob("VOCdevkit/*")])
    )
    return [folder for folder in candidates if (folder / "ImageSets" / "Main").is_dir()]


def has_splits(root: Path) -> bool:
    """Return whether a folder has VOC's year folders, or folders with XML files."""
    return bool(year_folders(root)) or bool(folder_splits(root))


def folder_splits(root: Path) -> list[str]:
    """Return the splits of a folder without image sets: sub-folders with XML files, beside images or apart; else "." for the
    folder itself."""
    names = []
    for folder in sorted(f for f in root.glob("*") if f.is_dir()):
        inner = [sub for sub in sorted(folder.glob("*")) if sub.is_dir()]
        if folder.name.lower() in _XML_FOLDERS:  # Annotations/train/0001.xml
            names += [sub.name for sub in inner if any(sub.glob("*.xml"))]
        elif any(folder.glob("*.xml")) or any(
            sub.name.lower() in _XML_FOLDERS and any(sub.glob("*.xml")) for sub in inner
        ):
            names.append(folder.name)
    alone = any(root.glob("*.xml")) or any(
        f.name.lower() in _XML_FOLDERS and any(f.glob("*.xml")) for f in root.glob("*") if f.is_dir()
    )
    return names or (["."] if alone else [])


def _folders_set(root: Path, name: str) -> ImageSet | None:
    """Return the images of a folder whose XML files lie in one folder and whose images in another: ``Annotations`` and any
    folder beside it, or the folder itself."""
    if ".." in Path(name).parts or Path(name).is_absolute() or "\0" in name:
        return None
    for base, sub in ((root / name, "."), (root, name)):
        inner = sorted(f for f in base.glob("*") if f.is_dir()) if base.is_dir() else []
        for folder in (f / sub for f in inner if f.name.lower() in _XML_FOLDERS):
            if not folder.is_dir() or not (names := [_stem(f) for f in walk(folder) if f.lower().endswith(".xml")]):
                continue
            beside = [f / sub for f in inner if f.name.lower() not in _XML_FOLDERS]
            found = [(images, image_files(images)) for images in (*beside, base, folder) if images.is_dir()]
            images, files = max(found, key=lambda pair: sum(name in pair[1] for name in names))
            return ImageSet(folder, sorted({*names, *files}), images, folder)
    return None


def image_sets(root: Path, split: str) -> list[ImageSet]:
    """Return every image set in ``split``.

    Raises:
        DataError: no such image set; lists those that exist.
    """
    result = []
    years = year_folders(root)
    for part in split.split("+"):
        year, _, name = part.strip().rpartition("/")
        folders = [f for f in years if not year or f.name in (year, f"VOC{year}")]
        lists = [(f, f / "ImageSets" / "Main" / f"{name}.txt") for f in folders]
        sets = [_listed_set(f, s) for f, s in lists if is_file(s)]
        if not sets and not years:
            sets = [s for s in (_folders_set(root, part.strip()) or _flat_set(root, part.strip()),) if s]
        if not sets:
            existing = [
                f"{f.name}/{s.stem}"
                for f in years
                for s in sorted((f / "ImageSets" / "Main").glob("*.txt"))
                if not s.name.startswith("._")
            ]
            existing += [] if years else folder_splits(root)
            raise DataError(
                f"{root}: no VOC image set {part.strip()!r} (ImageSets/Main/{name}.txt, or a folder with images and their "
                f"XML files); image sets found: {', '.join(existing[:8]) or 'none'}"
            )
        result += sets
    return result


def _listed_set(year: Path, source: Path) -> ImageSet:
    images, annotations = year / "JPEGImages", year / "Annotations"
    names = [line.strip() for line in read_lines(source) if line.strip()]
    return ImageSet(source, names, images, annotations)


def _flat_set(root: Path, name: str) -> ImageSet | None:
    """Return the images of a folder that have, or lack, XML files beside them."""
    folder = root if name in ("", ".") else root / name
    if not folder.is_dir() or ".." in Path(name).parts or Path(name).is_absolute():
        return None
    files = list(walk(folder))
    if not any(f.lower().endswith(".xml") for f in files):
        return None
    return ImageSet(folder, sorted({_stem(f) for f in files if _stem(f) != f}), folder, folder)


def _stem(file: str) -> str:
    """Return a name without the extension of an image or an XML file; a dot within the name is no extension."""
    base, dot, extension = file.rpartition(".")
    return base if base and f"{dot}{extension}".lower() in (*SUFFIXES, ".xml") else file


def image_files(folder: Path) -> dict[str, list[str]]:
    """Return the image files in a folder and its sub-folders by their names without extension."""
    files: dict[str, list[str]] = defaultdict(list)
    for file in walk(folder):
        if file.lower().endswith(SUFFIXES):
            files[_stem(file)].append(file)
    return dict(files)


def image_names(lines: Sequence[str], known: set[str]) -> list[str]:
    """Return the image names that the lines of an image set mean.

    A name is the whole line where it is in ``known`` (names may contain spaces), or the line without an image's extension,
    else its first word (the image sets of single classes have a second column).
    """
    names = []
    for text in lines:
        first = text.split()[0]
        candidates = (text, _stem(text), first, _stem(first))
        names.append(next((name for name in candidates if name in known), _stem(first)))
    return names


@dataclass(frozen=True)
class _Rows:
    """What an image set has, by image: name, file, XML file, size, and objects; and the issues."""

    names: list[str]
    files: list[str]
    xmls: list[str]
    arrays: Arrays
    issues: list[Issue]


def _read_image_set(image_set: ImageSet, images: bool = True) -> _Rows:
    """Read an image set; without ``images`` sizes are those of the XML files."""
    files = image_files(image_set.images) if images else {}
    xml_files = {_stem(f): f for f in walk(image_set.annotations) if f.lower().endswith(".xml")}
    listed = image_names(image_set.names, {*files, *xml_files})
    source, names, issues = str(image_set.source), [], []
    near = NearNames(files if images else xml_files)
    for name, count in Counter(listed).items():
        if count > 1:
            issues.append(Issue("repeated name", source, None, name))
        if images and name not in files:
            issues.append(Issue("missing image", source, None, near.hint(name)))
        if name not in xml_files:
            xml = image_set.annotations / f"{name}.xml"
            issues.append(Issue("missing annotations", source, None, str(xml)))
        elif name in files or not images:
            names.append(name)
    xmls = [image_set.annotations / xml_files[n] for n in names]
    candidates = [[image_set.images / f for f in files[n]] if images else [] for n in names]
    files_of = list(zip(xmls, candidates, strict=True))
    stamps = in_threads(lambda paths: [stamp(path) for path in (paths[0], *paths[1])], files_of)
    arrays = cached(
        f"{image_set.images.resolve()}:{source}:{images}",
        hashlib.sha256(repr((names, stamps)).encode("utf-8", "surrogatepass")).hexdigest(),
        lambda: _to_arrays(in_threads(lambda paths: _read_image(*paths), files_of)),
        skip_if=lambda arrays: decode_json(arrays["text"])["temporary"],
    )
    metadata = decode_json(arrays["text"])
    issues += [Issue(*row) for row in metadata["issues"]]
    # without images, what names them
    chosen = [str(c[k]) if c else n for c, k, n in zip(candidates, metadata["chosen"], names, strict=True)]
    return _Rows(names, chosen, [str(x) for x in xmls], arrays, issues)


@dataclass(frozen=True)
class _Image:
    """An image's XML file, which of its candidate files it is, its size, and whether both could be read."""

    xml: XmlFile
    chosen: int
    size: tuple[int, int]
    issues: list[Issue]
    readable: bool


def _read_image(path: Path, candidates: list[Path]) -> _Image:
    """Read an XML file and the size of its image, which is ``<filename>``'s where several files have the name."""
    xml = read_xml(path)
    if not candidates:
        return _Image(xml, 0, xml.size or (0, 0), xml.issues, xml.valid)
    issues, stated = list(xml.issues), xml.file_name.replace("\\", "/").rpartition("/")[2]
    by_name = [i for i, candidate in enumerate(candidates) if candidate.name == stated]
    if len(candidates) > 1 and not by_name:
        found = f"{', '.join(c.name for c in candidates)}; <filename> is {xml.file_name!r} and names none of them"
        issues.append(Issue("several images of one name", str(path), None, found))
    elif xml.file_name and not by_name:
        issues.append(
            Issue("another file name stated", str(path), None, f"{xml.file_name}, the image is {candidates[0].name}")
        )
    chosen = by_name[0] if by_name else 0
    try:
        size = image_size(candidates[chosen])  # the XML's <size> is often 0x0 or wrong
    except FileNotFoundError:  # a link to nowhere
        issues.append(Issue("missing image", str(path), None, str(candidates[chosen])))
        return _Image(xml, chosen, (0, 0), issues, readable=False)
    except (UnreadableImage, OSError) as error:
        issues.append(Issue("unreadable image", str(candidates[chosen]), None, str(error)))
        return _Image(xml, chosen, (0, 0), issues, readable=False)
    if xml.size is not None and xml.size != size:
        found = f"{xml.size[0]}x{xml.size[1]}, the image is {size[0]}x{size[1]}"
        issues.append(Issue("another size stated", str(path), None, found))
    return _Image(xml, chosen, size, issues, xml.valid)


def _to_arrays(images: list[_Image]) -> Arrays:
    objects = [[] if not image.readable else image.xml.objects for image in images]
    flat = [o for image_objects in objects for o in image_objects]
    classes = sorted({o.name for o in flat})
    label = {name: k for k, name in enumerate(classes)}
    issues = [issue for image in images for issue in image.issues]
    metadata = {
        "classes": classes,
        "chosen": [image.chosen for image in images],
        "issues": [astuple(issue) for issue in issues],
        "temporary": any(issue.kind in ("unreadable image", "missing image") for issue in issues),
    }
    return {
        "text": encode_json(metadata),
        "readable": np.array([image.readable for image in images], dtype=bool),
        "sizes": np.array([image.size for image in images], dtype=np.int64).reshape(-1, 2),
        "counts": np.array([len(image_objects) for image_objects in objects], dtype=np.int64),
        "boxes": np.array([o.box for o in flat], dtype=np.float64).reshape(-1, 4),
        "labels": np.array([label[o.name] for o in flat], dtype=np.int64),
        "difficult": np.array([o.difficult for o in flat], dtype=bool),
        "numbers": np.array([int(o.number) for o in flat], dtype=np.int64),
    }


def _join(name: str, sets: list[_Rows], classes: Sequence[str] | None) -> Annotations:
    """Return the image sets as one; images whose file cannot be read are left out."""
    issues = [issue for rows in sets for issue in rows.issues]
    names = [n for rows in sets for n in rows.names]
    issues += [Issue("repeated name", name, None, n) for n, count in Counter(names).items() if count > 1]
    set_classes = [decode_json(rows.arrays["text"])["classes"] for rows in sets]
    used = sorted({c for of_set in set_classes for c in of_set})
    number = {c: k for k, c in enumerate(used, 1)}
    labels = [
        np.array([number[c] for c in of_set], dtype=np.int64)[rows.arrays["labels"]]
        for of_set, rows in zip(set_classes, sets, strict=True)
    ]

    def joined(key: str, shape: tuple[int, ...] = (0,)) -> np.ndarray:
        return np.concatenate([np.zeros(shape), *(rows.arrays[key] for rows in sets)])

    boxes = joined("boxes", (0, 4))
    with np.errstate(over="ignore", invalid="ignore"):
        sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
        areas = sides[:, 0] * sides[:, 1]
    annotations = Annotations(
        name=name,
        classes=tuple(used),
        category_ids=tuple(range(1, len(used) + 1)),
        image_ids=names,
        files=Strings([f for rows in sets for f in rows.files]),
        sizes=joined("sizes", (0, 2)).astype(np.int64),
        offsets=np.cumsum([0, *joined("counts").astype(np.int64).tolist()], dtype=np.int64),
        boxes=boxes,
        labels=np.concatenate([np.zeros(0, dtype=np.int64), *labels]),
        areas=areas,
        crowd=np.zeros(len(boxes), dtype=bool),
        difficult=joined("difficult").astype(bool),
        object_names=Strings([str(int(n)) for n in joined("numbers")]),
        sources=Strings([x for rows in sets for x in rows.xmls]),
        issues=tuple(issues),
    ).select(joined("readable").astype(bool))
    return annotations if classes is None else annotations.with_classes(classes, renumber=True)
