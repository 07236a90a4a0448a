"""Read tables of boxes (CSV): an object a row, by the columns of a header (TensorFlow's, Roboflow's), or without one in the
order file, x1, y1, x2, y2, class (keras-retinanet's)."""

import csv
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from detection.data.annotations import Annotations, DataError, finish_reading
from detection.data.files import Stamp, is_file, read_lines, stamp
from detection.data.issues import Issue
from detection.data.readers.collect import Collected, best_folder

_LOG = logging.getLogger(__name__)
_BOXES = "x1, y1, x2, y2"  # of an object
COLUMNS = ("file", "x1", "y1", "x2", "y2", "class")
# names of columns, in lower case without spaces and underscores -> what is in them
_NAMES = {
    **dict.fromkeys(("file", "filename", "image", "imagename", "imagepath", "path", "img", "imageid"), "file"),
    **dict.fromkeys(("class", "label", "name", "classname", "category", "labelname"), "class"),
    **dict.fromkeys(("xmin", "x1", "left"), "x1"),
    **dict.fromkeys(("ymin", "y1", "top"), "y1"),
    **dict.fromkeys(("xmax", "x2", "right"), "x2"),
    **dict.fromkeys(("ymax", "y2", "bottom"), "y2"),
    **{name: name for name in ("width", "height")},
    "isgroupof": "crowd",
    "iscrowd": "crowd",
}
_CLASS_FILES = ("classes.csv", "class_mapping.csv", "labels.csv")  # keras-retinanet's "class,id"


def read_csv(root: str | Path, split: str, *, strict: bool = True) -> Annotations:
    """Read one split.

    Args:
        root: the dataset's folder; image paths are relative to it, to the table, to images/, or to the split's folder.
        split: SPLIT.csv, SPLIT/_annotations.csv, or annotations/SPLIT.csv, or the path of a table under the root.
        strict: refuse broken rows and log the issues; else all are in ``issues``, and what is broken is left out.

    Raises:
        DataError: no table, or no images; where strict, rows that cannot be read; names the file and the line.
    """
    root = Path(root)
    path = table_file(root, split)
    collected, relative = read_rows(path)
    if not collected.images:
        raise DataError(f"{path}: no images")
    folders = (path.parent, root, root / split, root / "images" / split, root / "images", path.parent / "images")
    folder = best_folder(folders, list(collected.images), str(path))
    classes = _classes(root, path)
    return finish_reading(collected.build(folder, classes, relative=relative), _BOXES, _LOG, strict=strict)


def source_stamps(root: Path, split: str) -> list[Stamp]:
    """Return the stamps of what a split is read from, as a cache key."""
    path = table_file(root, split)
    return [stamp(p) for p in (path, path.parent, root, root / split, root / "images")]


def table_file(root: Path, split: str) -> Path:
    """Return the table of a split.

    Raises:
        DataError: no such file; lists those tried and found.
    """
    forms = ("{}", "{}.csv", "{}/_annotations.csv", "annotations/{}.csv", "{}_labels.csv", "{}_annotations.csv")
    candidates = [root / form.format(split) for form in forms]
    if path := next((p for p in candidates if is_file(p)), None):
        return path
    found = ", ".join(tables(root)) or "none"
    raise DataError(
        f"{root}: no table of {split!r} (tried {', '.join(f.format(split) for f in forms)}); tables found: {found}"
    )


def tables(root: Path) -> list[str]:
    """Return the CSV files of a folder and its sub-folders that have boxes, as splits."""
    files = [p for p in (*sorted(root.glob("*.csv")), *sorted(root.glob("*/*.csv"))) if p.name not in _CLASS_FILES]
    splits = []
    for path in (p for p in files if columns(_head(p)) is not None):
        name = path.relative_to(root).as_posix()
        for form in ("/_annotations.csv", "_annotations.csv", "_labels.csv", ".csv"):
            name = name.removesuffix(form)
        splits.append(name.removeprefix("annotations/"))
    return splits


def _head(path: Path) -> list[str]:
    """Return the first row of a table, empty where it is none."""
    try:
        with path.open("rb") as file:
            head = file.read(4096).decode("utf-8-sig").splitlines()
        return next(_rows(head))[1]
    except (OSError, UnicodeDecodeError, StopIteration, csv.Error):
        return []


def columns(row: Sequence[str]) -> dict[str, int] | None:
    """Return which column has what, given a table's first row; None where it has no boxes."""
    if len(row) == len(COLUMNS) and all(_is_number(v) or not v.strip() for v in row[1:5]) and not _is_number(row[0]):
        return {name: i for i, name in enumerate(COLUMNS)}
    named = {_NAMES.get(cell.strip().lower().replace("_", "").replace(" ", "")): i for i, cell in enumerate(row)}
    places = {name: i for name, i in named.items() if name is not None}
    return places if {*COLUMNS} <= {*places} else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rows(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the values of each row that is not empty; separated by what the first row has most of."""
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    for row in reader:
        if any(cell.strip() for cell in row):
            yield reader.line_num, row


def read_rows(path: Path) -> tuple[Collected, bool]:
    """Return the images and objects of a table, and whether its boxes are fractions of the image's size.

    Raises:
        DataError: not a table of boxes.
    """
    collected = Collected(str(path))
    places: dict[str, int] = {}
    try:
        for number, row in _rows(read_lines(path)):
            if not places:
                places = columns(row) or {}
                if not places:
                    shown = ",".join(row)[:80]
                    raise DataError(
                        f"{path}, line {number}: {shown!r}: expected {','.join(COLUMNS)}, or a header with them"
                    )
                if not _is_first_row(row, places):
                    continue
            _add_row(collected, places, number, row)
    except csv.Error as error:
        raise DataError(f"{path} is not a table: {error}") from None
    relative = _look_relative(collected)
    return collected, relative


def _is_first_row(row: Sequence[str], places: dict[str, int]) -> bool:
    """Return whether a table's first row is an object or an empty image already, and no header."""
    return all(_is_number(row[places[k]]) or not row[places[k]].strip() for k in ("x1", "y1", "x2", "y2"))


def _add_row(collected: Collected, places: dict[str, int], number: int, row: list[str]) -> None:
    name, shown = f"line {number}", ",".join(row)[:80]
    values = {key: row[i].strip() if i < len(row) else "" for key, i in places.items()}
    file = values["file"].replace("\\", "/")
    if not file or "\0" in file:
        collected.issue("broken annotations", name, f"{shown!r}: no file")
        return
    image = collected.image(file)
    if values.get("width", "").isdecimal() and values.get("height", "").isdecimal():
        collected.state(image, (int(values["height"][:9]), int(values["width"][:9])))
    corners = [values[key] for key in ("x1", "y1", "x2", "y2")]
    if not any(corners) and not values["class"]:
        return  # an image without objects
    if not all(map(_is_number, corners)):
        wrong = next(c for c in corners if not _is_number(c))
        collected.issue("broken annotations", name, f"{shown!r}: {wrong!r} is not a number, expected {_BOXES}")
    elif not values["class"]:
        collected.issue("broken annotations", name, f"{shown!r}: no class")
    else:
        collected.add(image, values["class"], [*map(float, corners)], name, crowd=values.get("crowd") == "1")


def _look_relative(collected: Collected) -> bool:
    """Return whether all boxes lie within 0..1, and say so: they are then fractions of the image's size."""
    boxes = collected.boxes
    relative = len(boxes) > 0 and bool((boxes >= 0).all() and (boxes <= 1).all() and (boxes % 1 != 0).any())
    if relative:
        collected.issue("relative boxes", None, f"all {len(boxes)} lie within 0..1")
        _LOG.info("%s: all boxes lie within 0..1 and are multiplied by the image's size", collected.name)
    return relative


def _classes(root: Path, path: Path) -> list[str] | None:
    """Return the classes of a file "class,id" beside the table or in the root, ordered by id; None where there is none.

    Raises:
        DataError: a row that is none.
    """
    file = next((f / name for f in (path.parent, root) for name in _CLASS_FILES if is_file(f / name)), None)
    if file is None or file == path:
        return None
    ids: dict[str, int] = {}
    for number, row in _rows(read_lines(file)):
        if number == 1 and len(row) > 1 and not row[1].strip().isdecimal():
            continue  # a header
        if len(row) < 2 or not row[0].strip() or not row[1].strip().isdecimal():
            raise DataError(f"{file}, line {number}: {','.join(row)[:80]!r}: expected class,id")
        if row[0].strip() in ids:
            raise DataError(str(Issue("repeated class", str(file), f"line {number}", row[0].strip())))
        ids[row[0].strip()] = int(row[1].strip()[:9])
    return sorted(ids, key=lambda name: ids[name])


def recognise(root: Path) -> tuple[list[str], str] | None:
    """Return the splits of a folder with tables of boxes and what tells it, None where there are none."""
    splits = tables(root) if root.is_dir() else []
    splits = [s for s in splits if "ImageID" not in _head(table_file(root, s))]  # OpenImages'
    return (splits, f"{table_file(root, splits[0]).relative_to(root)} has columns of boxes") if splits else None
