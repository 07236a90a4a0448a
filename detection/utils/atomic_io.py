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
    """Sync a file, or a folder's entries, to disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems do not support fsync of folders
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
