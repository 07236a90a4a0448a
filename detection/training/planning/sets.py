"""The training and validation sets of a folder, by the names that people give them."""

from collections.abc import Sequence
from pathlib import Path

from detection.data.image import hidden
from detection.data.voc import year_folders

_TRAIN = ("train", "training", "trainval", "default", "all")
_VAL = ("val", "valid", "validation", "dev", "test", "testing")


def name_sets(names: Sequence[str]) -> tuple[str, str | None]:
    """Return the sets to train on and to validate on, of those there are; None for validation where none is named so.

    Names such as train2017 and instances_val count as train and val. Of several the earlier in the lists above comes first;
    a set that is named nothing known is trained on where it is the only one.

    Raises:
        ValueError: none is named as a training set, and there are several.
    """
    train = _first(names, _TRAIN)
    val = _first([name for name in names if name != train], _VAL)
    if train is None:
        others = [name for name in names if name != val]
        if len(others) != 1:
            raise ValueError(
                f"which set to train on is not clear, there are {', '.join(names) or 'none'}: data.train=NAME"
            )
        train = others[0]
    return train, val


def _first(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    forms = {name: _form(name) for name in names}
    for form in wanted:
        if found := sorted(name for name in names if forms[name] == form):
            return found[-1]  # the latest year
    return None


def _form(name: str) -> str:
    path = name.replace("\\", "/").removesuffix("/_annotations.coco.json")
    stem = path.rpartition("/")[2].removesuffix(".json").removesuffix(".txt").lower()
    return stem.removeprefix("instances_").rstrip("0123456789_-. ")


def find_sets(root: Path) -> tuple[str, list[str], str]:
    """Return the format of a folder's data, the names of its sets, and what it was recognised by.

    Raises:
        ValueError: nothing is recognised, or several formats are.
    """
    found = [result for result in (_voc_sets(root), _coco_sets(root)) if result is not None]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"{root} may be "
            + " or ".join(f"{name} ({why})" for name, _, why in found)
            + ": say which by data.format=…"
        )
    raise ValueError(
        f"no data set recognised in {root}: VOC has ImageSets/Main/*.txt, or XML files beside images; COCO a JSON file in "
        "annotations/ or beside the images. data.format=… data.train=… name others"
    )


def _voc_sets(root: Path) -> tuple[str, list[str], str] | None:
    years = year_folders(root)
    if years:
        newest = years[-1]
        prefix = "" if newest == root else f"{newest.name}/"
        lists = sorted(path.stem for path in (newest / "ImageSets" / "Main").glob("*.txt") if not hidden(path.name))
        names = [name for name in lists if not _of_a_class(name, lists)]
        return "voc", [prefix + name for name in names], f"{newest}/ImageSets/Main"
    folders = sorted({path.parent for path in root.glob("*/*.xml")})
    if folders:
        return "voc", [folder.name for folder in folders], f"XML files in {folders[0]}"
    return ("voc", ["."], f"XML files in {root}") if any(root.glob("*.xml")) else None


def _of_a_class(name: str, lists: Sequence[str]) -> bool:
    """Return whether an image set is a class's part of another one, as VOC's cat_train is."""
    return name.rpartition("_")[2] in lists and "_" in name


def _coco_sets(root: Path) -> tuple[str, list[str], str] | None:
    in_folder = sorted(path for path in (root / "annotations").glob("*.json") if not hidden(path.name))
    if instances := [path for path in in_folder if path.stem.startswith("instances_")]:
        in_folder = instances  # beside captions_ and person_keypoints_
    files = in_folder or sorted(root.glob("*/_annotations.coco.json")) or sorted(root.glob("*.json"))
    files = [path for path in files if not hidden(path.name)]
    return ("coco", [path.relative_to(root).as_posix() for path in files], str(files[0])) if files else None
