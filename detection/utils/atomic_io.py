"""Atomic file writes, which survive a crash of the process or the machine."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success sync it to disk and rename it to ``path``, else delete it.

    Raises:
        OSError: the file cannot be written; ``path`` is unchanged.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    except RuntimeError as error:  # torch raises it when the disk is full
        raise OSError(f"{path} cannot be written: {error}; the existing file is unchanged") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def sync(path: Path) -> None:
    """Sync a file, or a folder's entries, to disk (fsync). Folders that cannot be synced are left out: Windows opens none,
    and some file systems refuse.

    Raises:
        OSError: the file does not exist or cannot be synced.
    """
    is_folder = path.is_dir()
    with contextlib.suppress(OSError) if is_folder else contextlib.nullcontext():
        # Windows syncs a file that is open for writing alone
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
