"""Decoded images in memory (``data.cache=ram``): read once, shared by all forked DataLoader workers."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detection.data.annotations import Annotations, DataError
from detection.data.image import UnreadableImage
from detection.data.loader import ImageReader
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
_FRACTION = 0.8  # of the available memory, the rest is the run's
_CGROUP = Path("/sys/fs/cgroup")  # a container's limits, version 2


class ImagesInMemory:
    """An image reader that keeps what it has decoded: the same pixels, without decoding them again.

    Args:
        read: decodes an image file.
        records: the datasets whose images are kept.
        channels: of the images.
        processes: of this machine, each of which keeps its own.

    Raises:
        DataError: the images do not fit; says what they need, and what there is.
    """

    def __init__(
        self, read: ImageReader, records: Sequence[Annotations], channels: int = 3, processes: int = 1
    ) -> None:
        self.read = read
        self.files = sorted({file for dataset in records for file in dataset.files})
        self._pixels: dict[str, NDArray[np.uint8]] = {}
        size_of = {f: int(h) * int(w) for d in records for f, (h, w) in zip(d.files, d.sizes.tolist(), strict=True)}
        self.nbytes = sum(size_of.values()) * channels
        available, needed = available_memory(), self.nbytes * processes
        if needed > _FRACTION * available:
            each = f" in {processes} processes" if processes > 1 else ""
            raise DataError(
                f"data.cache=ram: {len(self.files)} decoded images need {needed / 2**30:.1f} GiB{each}, and {_FRACTION:.0%} "
                f"of the {available / 2**30:.1f} GiB that are available may be used: set data.cache=none"
            )

    def fill(self) -> None:
        """Decode all images that are not there yet; those that cannot be read stay out, and are reported when they are asked
        for. To be called before workers are forked."""
        missing = [file for file in self.files if file not in self._pixels]
        with progress_bar() as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            task = bar.add_task("decoding into memory", total=len(missing))
            for file, pixels in zip(missing, pool.map(self._decoded, missing), strict=True):
                if pixels is not None:
                    self._pixels[file] = pixels
                bar.advance(task)
        held = sum(pixels.nbytes for pixels in self._pixels.values())
        _LOG.info("data.cache=ram: %d images, %.2f GiB", len(self._pixels), held / 2**30)

    def _decoded(self, file: str) -> NDArray[np.uint8] | None:
        try:
            pixels = np.ascontiguousarray(self.read(file))
        except (UnreadableImage, OSError):
            return None
        pixels.setflags(write=False)
        return pixels

    def __call__(self, file: str) -> NDArray[np.uint8]:
        """Return a file's pixels, uint8 [H, W, C], which cannot be written to."""
        pixels = self._pixels.get(file)
        return self.read(file) if pixels is None else pixels

    def __reduce__(self) -> tuple[object, ...]:
        raise DataError(
            "data.cache=ram is shared with forked DataLoader workers, and this system starts new ones: set data.workers=0"
        )


def available_memory() -> int:
    """Return the bytes that can be allocated without swapping: the machine's, or what a container's limit leaves."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux: half of all
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**33
        available = int(pages) // 2
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="utf-8").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="utf-8"))
        # what files hold is given back when it is needed
        cached = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
        if limit != "max":
            available = min(available, int(limit) - used + int(cached.get("inactive_file", 0)))
    except (OSError, ValueError):  # no container
        pass
    return available
