"""Names of files as data sets give them: which exist, which was meant, and lists of names in any encoding."""

import codecs
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from detection.data.annotations import DataError
from detection.data.image import hidden

Stamp = tuple[int, int] | None
In = TypeVar("In")
Out = TypeVar("Out")
_CHUNK = 512  # files a task: a task each would cost more than the file
_LONG = 120  # characters of a name in a message
# longest first: UTF-32's mark begins with UTF-16's
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def in_threads(function: Callable[[In], Out], items: Sequence[In]) -> list[Out]:
    """Return the results of a function that waits for files, in the order of the items."""
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda k: [function(x) for x in items[k : k + _CHUNK]], range(0, len(items), _CHUNK))
        return [result for part in parts for result in part]


def stamp(path: str | Path) -> Stamp:
    """Return a file's or folder's size and modification time in nanoseconds, None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        return None
    return status.st_size, status.st_mtime_ns


def is_file(path: Path) -> bool:
    """Return whether a file exists; False for a dangling link, a name that is too long, or one with a null byte."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def walk(folder: Path) -> Iterator[str]:
    """Yield the files under a folder, relative with forward slashes, sorted by folder; linked folders are followed once.

    A folder that does not exist has no files.
    """
    visited = set()
    for base, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(base)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders.sort()
        prefix = os.path.relpath(base, folder).replace(os.sep, "/")
        yield from (name if prefix == "." else f"{prefix}/{name}" for name in sorted(files) if not hidden(name))


class NearNames:
    """Finds the name that was probably meant, among those that exist: other case, Unicode form, slashes or folder."""

    def __init__(self, known: Iterable[str]) -> None:
        self.by_form: dict[str, str] = {}
        for name in known:
            for form in (_form(name), _form(name).rpartition("/")[2]):
                self.by_form.setdefault(form, name)

    def __call__(self, name: str) -> str | None:
        """Return the existing name that is most like ``name``, None where none is."""
        form = _form(name)
        return self.by_form.get(form) or self.by_form.get(form.rpartition("/")[2])

    def hint(self, name: str) -> str:
        """Return "NAME (there is NEAR)", or the name alone."""
        near, text = self(name), name if len(name) <= _LONG else f"{name[:_LONG]}… ({len(name)} characters)"
        if near is None:
            return text
        same = unicodedata.normalize("NFC", near) == unicodedata.normalize("NFC", name)
        return f"{text} (there is {near}{', the same letters in another Unicode form' if same else ''})"


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().replace("\\", "/").strip()


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Raises:
        DataError: another encoding; names the file and the line.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding).splitlines()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not {encoding.upper()} (byte {content[error.start]:#04x}); save the file as UTF-8"
        ) from None
