"""Atomic file writes, which survive a crash of the process or the machine; text is UTF-8."""

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; on success sync it to disk and rename it to ``path``, else delete it.

    Args:
        path: of the file.
        shared: several processes, perhaps of several machines, may write this file at the same time: each then has a
            temporary name of its own. Else the name is fixed, so that a killed process leaves one such file at most.

    Raises:
        OSError: the file cannot be written; ``path`` is unchanged.
    """
    part = path.with_name(path.name + (f".{secrets.token_hex(4)}.part" if shared else ".part"))
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


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8; characters that have no UTF-8 (half a surrogate pair) are escaped.

    Raises:
        OSError: as :func:`replacing`.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write a JSON file whole or not at all; ``indent`` None writes one line.

    Raises:
        OSError: as :func:`replacing`.
    """
    write_text(path, json.dumps(content, indent=indent) + "\n")


def require_new(paths: Iterable[Path], option: str) -> None:
    """Check, before work begins, that a command's result files do not exist yet: they may be the user's.

    Args:
        paths: of the results.
        option: of the command that names them, for the message.

    Raises:
        FileExistsError: one exists; says how to proceed.
    """
    for path in paths:
        if path.exists() or path.is_symlink():
            raise FileExistsError(f"{path} already exists and is not replaced: give another {option}, or move it away")


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
