"""Read OpenImages' tables of boxes: fractions of the image's size, class names in a table of their own."""

import csv
import logging
from pathlib import Path

from detection.data.annotations import Annotations, DataError, finish_reading
from detection.data.files import Stamp, is_file, read_lines, stamp
from detection.data.image import SUFFIXES
from detection.data.readers.collect import Collected, best_folder

_LOG = logging.getLogger(__name__)
_CORNERS = ("XMin", "YMin", "XMax", "YMax")
_NEEDED = ("ImageID", "LabelName", *_CORNERS)
# "{}" is the split; OpenImages' own names and versions, and FiftyOne's folders
_TABLES = (
    "{}-annotations-bbox.csv",
    "oidv6-{}-annotations-bbox.csv",
    "annotations/{}-annotations-bbox.csv",
    "annotations/oidv6-{}-annotations-bbox.csv",
    "{}/labels/detections.csv",
    "{}.csv",
    "{}",
)
_DESCRIPTIONS = (
    "class-descriptions-boxable.csv",
    "oidv7-class-descriptions-boxable.csv",
    "class-descriptions.csv",
    "oidv7-class-descriptions.csv",
    "classes.csv",
)


def read_openimages(root: str | Path, split: str, *, strict: bool = True) -> Annotations:
    """Read one split. ``IsGroupOf`` objects are crowd regions. Classes are those that occur, sorted by name.

    Args:
        root: the dataset's folder, with the images in SPLIT/, images/SPLIT/ or SPLIT/data/.
        split: train, validation, test: that of SPLIT-annotations-bbox.csv (also oidv6-…), or a table's path.
        strict: refuse broken rows and log the issues; else all are in ``issues``, and what is broken is left out.

    Raises:
        DataError: no table, or no images; where strict, rows that cannot be read; names the file and the line.
    """
    root = Path(root)
    path = table_file(root, split)
    names = _descriptions(root, path, split)
    collected, suffix = Collected(str(path)), None
    folders = (
        root / split,
        root / "images" / split,
        root / split / "data",
        root / split / "images",
        root / "images",
        root,
    )
    lines = read_lines(path)
    try:
        rows = csv.DictReader(lines)
        header = rows.fieldnames or []
        if missing := [name for name in _NEEDED if name not in header]:
            raise DataError(f"{path}: no column {', '.join(missing)}; expected OpenImages' {', '.join(_NEEDED)}")
        for row in rows:
            image = (row["ImageID"] or "").strip()
            if not image or "\0" in image or "/" in image:
                collected.issue("broken annotations", f"line {rows.line_num}", f"ImageID {image!r:.80}")
                continue
            suffix = suffix or _suffix(folders, image)
            _add(collected, row, f"{image}{suffix or '.jpg'}", f"line {rows.line_num}", names)
    except csv.Error as error:
        raise DataError(f"{path} is not a table: {error}") from None
    if not collected.images:
        raise DataError(f"{path}: no images")
    folder = best_folder(folders, list(collected.images), str(path))
    annotations = collected.build(folder, None, relative=True)
    return finish_reading(annotations, ", ".join(_CORNERS), _LOG, strict=strict)


def _add(collected: Collected, row: dict[str, str], file: str, name: str, names: dict[str, str]) -> None:
    image = collected.image(file)
    label = (row["LabelName"] or "").strip()
    corners = []
    for column in _CORNERS:
        try:
            corners.append(float(row[column]))
        except (TypeError, ValueError):
            collected.issue("broken annotations", name, f"{column} {row[column]!r:.40} is not a number")
            return
    if not label:
        collected.issue("broken annotations", name, "no LabelName")
        return
    collected.add(image, names.get(label, label), corners, name, crowd=(row.get("IsGroupOf") or "").strip() == "1")


def _suffix(folders: tuple[Path, ...], image: str) -> str | None:
    """Return the extension of an image, which the table does not give; None where there is no such image."""
    return next((s for s in SUFFIXES for folder in folders if is_file(folder / f"{image}{s}")), None)


def source_stamps(root: Path, split: str) -> list[Stamp]:
    """Return the stamps of what a split is read from, as a cache key."""
    return [
        stamp(p) for p in (table_file(root, split), root, root / split, root / split / "data", root / "images" / split)
    ]


def table_file(root: Path, split: str) -> Path:
    """Return the table of a split.

    Raises:
        DataError: no such file; lists those tried and found.
    """
    if path := next((root / f.format(split) for f in _TABLES if is_file(root / f.format(split))), None):
        return path
    tried, found = ", ".join(f.format(split) for f in _TABLES), ", ".join(find_splits(root)) or "none"
    raise DataError(f"{root}: no OpenImages table of {split!r} (tried {tried}); splits found: {found}")


def find_splits(root: Path) -> list[str]:
    """Return the splits that have a table of boxes."""
    files = [*root.glob("*.csv"), *root.glob("annotations/*.csv"), *root.glob("*/labels/detections.csv")]
    splits = []
    for path in sorted(p for p in files if _is_table(p)):
        if path.name == "detections.csv":
            splits.append(path.parents[1].name)
        else:
            splits.append(path.stem.removeprefix("oidv6-").removesuffix("-annotations-bbox"))
    return list(dict.fromkeys(splits))


def _is_table(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.readline(4096).decode("utf-8", "replace").lstrip("\ufeff")
    return {*_NEEDED} <= {cell.strip() for cell in head.split(",")}


def _descriptions(root: Path, path: Path, split: str) -> dict[str, str]:
    """Return the class names by ``LabelName``, empty where no table gives them; two of one name keep their label."""
    folders = (root, root / "metadata", path.parent, root / split / "metadata")
    file = next((f / name for f in folders for name in _DESCRIPTIONS if is_file(f / name)), None)
    if file is None:
        _LOG.warning("%s: no class-descriptions-boxable.csv: classes are called by their labels", root)
        return {}
    rows = [row for row in csv.reader(read_lines(file)) if len(row) >= 2 and row[0].strip() and row[1].strip()]
    names = {row[0].strip(): row[1].strip() for row in rows}
    used = [*names.values()]
    return {label: name if used.count(name) == 1 else f"{name} ({label})" for label, name in names.items()}


def recognise(root: Path) -> tuple[list[str], str] | None:
    """Return the splits of a folder with OpenImages' tables and what tells it, None where there are none."""
    splits = find_splits(root) if root.is_dir() else []
    return (splits, f"{table_file(root, splits[0]).relative_to(root)} has OpenImages' columns") if splits else None
