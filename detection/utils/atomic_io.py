"""Files that are whole or absent, whenever the process or the machine stops."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write to. When all went well it is on the disk and then takes ``path``'s place; else it is
    removed, and ``path`` stays as it was."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        sync(part)
        part.replace(path)
        sync(path.parent)
    except RuntimeError as error:  # torch's, where the disk is full
        raise OSError(f"{path} cannot be written: {error}; what there was stays") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def sync(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems have no such thing for folders
        if not path.is_dir():
            raise
    finally:
        os.close(handle)
