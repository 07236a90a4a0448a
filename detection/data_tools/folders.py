"""New dataset folders, whole or absent, and the images in them: linked or copied, none replaced."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from detection.data.annotations import Annotations, DataError
from detection.data.image import SUFFIXES
from detection.utils.atomic_io import require_new
from detection.utils.progress import progress_bar

Images = Literal["link", "copy", "none"]
IMAGES: tuple[str, ...] = get_args(Images)


@contextlib.contextmanager
def new_folder(path: Path, option: str = "--output FOLDER") -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` to write to; on success it is renamed to ``path``, else deleted.

    Args:
        path: of the folder, which must not exist, or be empty.
        option: of the command that names it, for the message.

    Raises:
        FileExistsError: there is a file or a folder with content; says how to proceed.
    """
    part = path.with_name(f"{path.name}.part")
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()  # Windows renames to no existing folder
    require_new([path, part], option)
    part.mkdir(parents=True)
    try:
        yield part
        part.rename(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part)


def image_names(records: Annotations) -> list[str]:
    """Return a file name for each image, relative to the images' folder; names differ also without their extensions, by
    which VOC and YOLO find an image's annotations.

    An image id that is a text is the name in formats without ids of their own, sub-folders included. A name that another
    image has takes ``_2``, and one that leaves the folder its last part.
    """
    names, taken = [], set[str]()
    for i in range(len(records)):
        stem, suffix = os.path.splitext(_name(records, i))
        if suffix.lower() not in SUFFIXES:
            stem, suffix = stem + suffix, ""
        candidate, number = stem, 2
        while candidate.casefold() in taken:  # also one on disks without case
            candidate, number = f"{stem}_{number}", number + 1
        taken.add(candidate.casefold())
        names.append(candidate + suffix)
    return names


def _name(records: Annotations, i: int) -> str:
    file, image = records.files[i], records.image_ids[i]
    name = records.file_name(i).replace("\\", "/")
    if records.folder is None and isinstance(image, str) and os.path.splitext(file)[0].endswith(f"/{image}"):
        name = file[-len(image) - len(os.path.splitext(file)[1]) :]
    parts = name.split("/")
    return parts[-1] if name.startswith("/") or ".." in parts or ":" in parts[0] else name


def place_images(records: Annotations, names: Sequence[str], folder: Path, images: Images) -> None:
    """Put a dataset's images into a new folder under ``names``.

    Args:
        records: whose files they are.
        names: of :func:`image_names`.
        folder: of the images.
        images: link makes hard links, or symbolic ones where the disk is another; none places none.

    Raises:
        DataError: an image's file does not exist (a synthetic dataset has none).
        OSError: an image cannot be placed.
    """
    if images == "none":
        return
    place = _link if images == "link" else shutil.copyfile
    for parent in {(folder / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    with progress_bar() as bar:
        task = bar.add_task("images", total=len(names))
        for i, name in enumerate(names):
            source = Path(records.files[i])
            if not source.is_file():
                raise DataError(f"{records.name}: no image file {source}; --images none writes annotations alone")
            place(source, folder / name)
            bar.advance(task)


def _link(source: Path, target: Path) -> None:
    source = source.resolve()  # a hard link to a symbolic link would lose its relative target
    try:
        os.link(source, target)
    except OSError:
        os.symlink(source, target)
