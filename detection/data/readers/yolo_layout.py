"""Where a YOLO dataset's images lie and what its classes are called: data.yaml (Ultralytics, Roboflow), obj.data (darknet,
CVAT), or folders alone."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from detection.data.annotations import DataError
from detection.data.files import is_file, read_lines, walk
from detection.data.image import SUFFIXES
from detection.data.issues import Issue

SPLITS = ("train", "val", "test")  # keys of data.yaml; "valid" is Roboflow's folder, "validation" also Ultralytics' key
_OTHER_SPLITS = ("valid", "validation", "trainval", "train2017", "val2017", "minival")
_CLASS_FILES = ("classes.txt", "obj.names", "data/obj.names", "labels/classes.txt", "_darknet.labels")


@dataclass(frozen=True)
class Layout:
    """What the files beside images and labels say.

    Attributes:
        root: the folder of the dataset.
        source: the file that names splits and classes, None where there is none.
        base: the folder that paths in it are relative to.
        names: class id -> name, None where nothing names the classes.
        entries: split -> its folders and lists.
        category_ids: of the classes, where the file keeps another format's.
        keypoints: values of a row after class and box: a pose dataset's.
        issues: of the source.
    """

    root: Path
    source: Path | None
    base: Path
    names: dict[int, str] | None
    entries: dict[str, list[str]]
    category_ids: list[int] | None = None
    keypoints: int = 0
    issues: list[Issue] = field(default_factory=list)


def read_layout(root: Path) -> Layout:
    """Return the layout of a folder, or of a YAML file given in its place.

    Raises:
        DataError: no such folder, several YAML files with class names, or a file that is not YAML.
    """
    if is_file(root):
        return _from_yaml(root.parent, root)
    if not root.is_dir():
        raise DataError(f"no folder {root}: give data.root=FOLDER with data.yaml, or with images/ and labels/")
    if files := yaml_files(root):
        if len(files) > 1:
            raise DataError(
                f"{root}: several files name classes: {', '.join(f.name for f in files)}; give one, data.root={files[0]}"
            )
        return _from_yaml(root, files[0])
    if data := next((f for f in (root / "obj.data", root / "data" / "obj.data") if is_file(f)), None):
        return _from_darknet(root, data)
    return Layout(root, None, root, _names_file(root), {})


def yaml_files(root: Path) -> list[Path]:
    """Return the YAML files of a folder that name classes: data.yaml alone where it is one of them."""
    files = sorted(f for f in (*root.glob("*.yaml"), *root.glob("*.yml")) if is_file(f) and "names" in _mapping(f))
    return [f for f in files if f.stem == "data"][:1] or files


def _mapping(path: Path) -> dict[Any, Any]:
    """Return the content of a YAML file, empty where it is no mapping."""
    try:
        return _load(path)
    except DataError:
        return {"names": None} if path.stem == "data" else {}  # its reader says what is wrong with it


def _load(path: Path) -> dict[Any, Any]:
    try:
        content = YAML(typ="safe", pure=True).load("\n".join(read_lines(path)))
    except (YAMLError, RecursionError, ValueError, AttributeError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the keys train, val and names, got {content!r:.80}")
    return content


def _from_yaml(root: Path, path: Path) -> Layout:
    content, issues = _load(path), list[Issue]()
    base = root
    stated = content.get("path")
    if isinstance(stated, str) and stated.strip():
        # Ultralytics also looks beside its own folder of datasets: where the path leads nowhere, the file's folder is meant
        base = next((p for p in (root / stated, root) if p.is_dir()), root)
    entries = {}
    for key, value in content.items():
        if key in ("train", "val", "test", *_OTHER_SPLITS) and value:
            values = value if isinstance(value, list) else [value]
            if all(isinstance(v, str) and v.strip() and "\0" not in v for v in values):
                entries[str(key)] = [v.strip() for v in values]
            else:
                issues.append(
                    Issue("broken annotations", str(path), None, f"{key}: {value!r:.80} is not a path or a list")
                )
    names = _names(content.get("names"), str(path), issues)
    count = content.get("nc")
    if names is not None and count is not None and count != len(names) and not isinstance(content["names"], dict):
        issues.append(Issue("broken annotations", str(path), None, f"nc: {count!r}, and names has {len(names)}"))
    ids = content.get("category_ids")
    sound = isinstance(ids, list) and names is not None and len(ids) == len(names) == len({*map(str, ids)})
    keep = ids if sound and ids is not None and all(type(i) is int for i in ids) else None
    return Layout(root, path, base, names, entries, keep, _keypoints(content.get("kpt_shape")), issues)


def _keypoints(shape: Any) -> int:
    if isinstance(shape, list) and len(shape) == 2 and all(type(n) is int and n > 0 for n in shape):
        return int(shape[0] * shape[1])
    return 0


def _names(value: Any, source: str, issues: list[Issue]) -> dict[int, str] | None:
    """Return class names by id, from a list or a dictionary."""
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    else:
        if value is not None:
            issues.append(Issue("broken annotations", source, None, f"names: {value!r:.80}, expected a list"))
        return None
    names: dict[int, str] = {}
    for key, name in pairs:
        number = int(key) if isinstance(key, str) and key.strip().isdecimal() else key
        if type(number) is not int or number < 0 or number > 10**6:
            issues.append(Issue("broken annotations", source, f"names[{key!r}]", "a class id is a whole number from 0"))
        elif isinstance(name, bool | list | dict | None) or not str(name).strip():
            issues.append(Issue("broken annotations", source, f"names[{key!r}]", f"{name!r:.80} is not a class name"))
        else:
            if str(name) in names.values():
                first = next(k for k, other in names.items() if other == str(name))
                found = f"name {str(name)!r} is that of the ids {first} and {number}"
                issues.append(Issue("repeated class", source, f"names[{key!r}]", found))
            names[number] = str(name)
    return dict(sorted(names.items()))


def _names_file(root: Path, files: Iterable[str] = _CLASS_FILES) -> dict[int, str] | None:
    path = next((root / f for f in files if is_file(root / f)), None)
    if path is None:
        return None
    return dict(enumerate(line.strip() for line in read_lines(path) if line.strip()))


def _from_darknet(root: Path, path: Path) -> Layout:
    """Return the layout that darknet's obj.data states (``train = data/train.txt``, ``names = data/obj.names``)."""
    pairs = [line.partition("=") for line in read_lines(path) if "=" in line]
    stated = {key.strip(): value.strip() for key, _, value in pairs}
    names = _names_file(root, [f for f in (stated.get("names", ""), f"{path.parent}/obj.names", *_CLASS_FILES) if f])
    entries = {"val" if key == "valid" else key: [stated[key]] for key in ("train", "valid", "test") if stated.get(key)}
    return Layout(root, path, root, names, entries)


def split_files(layout: Layout, split: str) -> tuple[list[str], list[str], list[Issue]]:
    """Return a split's images, absolute, in the order of its lists, or of the names in its folders.

    Args:
        layout: of the dataset.
        split: a key of the source (train, val, test), or a folder or list under the root; "a+b" joins two.

    Returns:
        The image files, which may not exist where a list names them; the folders and lists; issues.

    Raises:
        DataError: no such split; lists those found.
    """
    files: list[str] = []
    sources: list[str] = []
    issues: list[Issue] = []
    for part in (p.strip() for p in split.split("+")):
        for entry in layout.entries.get(part, []) or [part]:
            path = _locate(layout, entry, known=part in layout.entries)
            if path is None:
                found = ", ".join(find_splits(layout)) or "none"
                where = (
                    f"{layout.source}: {part}: {entry} does not exist" if part in layout.entries else str(layout.root)
                )
                raise DataError(
                    f"{where}: no YOLO split {part!r} (a key of data.yaml, images/{part}, {part}/images, or a list of "
                    f"files); splits found: {found}"
                )
            sources.append(str(path))
            if path.is_dir():
                files += [f"{path}/{name}" for name in sorted(walk(path)) if name.lower().endswith(SUFFIXES)]
            else:
                files += _listed(layout, path)
    return files, sources, issues


def _locate(layout: Layout, entry: str, *, known: bool) -> Path | None:
    """Return the folder or list that an entry means, None where there is none.

    An entry of data.yaml is relative to its ``path``; Roboflow's begin with ``../`` one folder too far up, those of CVAT and
    darknet with ``data/``. A split's name is looked for in the usual places.
    """
    tail = entry.removeprefix("../").removeprefix("./")
    candidates = [layout.base / entry, layout.base / tail, layout.root / tail, layout.root / tail.removeprefix("data/")]
    if not known:
        if Path(entry).is_absolute() or ".." in Path(entry).parts or "\0" in entry:
            return None
        folders = ("images/{}", "{}/images", "{}/obj_train_data", "obj_{}_data", "{}.txt", "data/{}.txt", "{}")
        candidates = [layout.root / form.format(entry) for form in folders]
    for path in candidates:
        if path.is_dir():
            images = path / "images"  # "train: train" of a folder with images/ and labels/
            return (
                images if images.is_dir() and not any(f.lower().endswith(SUFFIXES) for f in os.listdir(path)) else path
            )
        if is_file(path) and path.suffix.lower() not in (*SUFFIXES, ".yaml"):
            return path
    return None


def _listed(layout: Layout, path: Path) -> list[str]:
    """Return the image files that a list names, each where it exists: as it stands, beside the list, or under the root."""
    lines = [line.strip().replace("\\", "/") for line in read_lines(path)]
    names = [line.removeprefix("./") for line in lines if line and "\0" not in line]
    bases = [str(path.parent), str(layout.base), str(layout.root)]
    if not names:
        return []
    forms = [
        lambda name: name,
        *(lambda name, b=base: f"{b}/{name}" for base in bases),
        *(lambda name, b=base: f"{b}/{name.removeprefix('data/')}" for base in bases),
    ]
    sample = names[:: max(1, len(names) // 50)][:50]
    absolute = all(os.path.isabs(name) for name in sample)
    counts = [sum(is_file(Path(form(name))) for name in sample) for form in (forms[:1] if absolute else forms[1:])]
    chosen = (forms[:1] if absolute else forms[1:])[counts.index(max(counts))]
    return [chosen(name) for name in names]


def find_splits(layout: Layout) -> list[str]:
    """Return the splits that exist: keys of the source, else the usual folders and lists."""
    keys = [key for key in layout.entries if all(_locate(layout, e, known=True) for e in layout.entries[key])]
    if keys:
        return keys
    usual = [name for name in (*SPLITS, *_OTHER_SPLITS) if _locate(layout, name, known=False)]
    if usual:
        return usual
    root = layout.root
    return ["."] if ((root / "images").is_dir() and (root / "labels").is_dir()) or _beside(root) else []


def _beside(root: Path) -> bool:
    """Return whether a folder has images with text files beside them."""
    names = set(os.listdir(root)) if root.is_dir() else set()
    return any(base + ".txt" in names for base, suffix in map(os.path.splitext, names) if suffix.lower() in SUFFIXES)
