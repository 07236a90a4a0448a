"""Decode all images of a dataset in worker processes, with results cached per file.

An image that kills its decoder is reported as unreadable; the check continues.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from detection.data.cache import FORMAT_VERSION, cache_dir, file_stamp, write_atomically
from detection.dataset_check.issues import ImageInfo, decode_image

_LOG = logging.getLogger(__name__)
_CHUNK_SIZE = 8  # images per task
_WORKER_DIED = "the worker process that decoded it died: out of memory, or the file crashes the decoder"
_Cache = dict[str, tuple[tuple[int, int], ImageInfo]]  # file -> its stamp and the result


def decode_images(
    files: Sequence[str],
    name: str,
    workers: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    decode: Callable[[str], ImageInfo] = decode_image,
) -> dict[str, ImageInfo]:
    """Decode each file and return the results by file.

    Args:
        files: paths; files with the same size and modification time as in the cache are not decoded again.
        name: of the dataset, which names the cache file.
        workers: number of processes.
        progress: called with the number of files decoded and the number of files to decode.
        decode: decodes one file.
    """
    path = cache_dir() / f"pictures-{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
    cache = _read_cache(path)
    stamps: dict[str, tuple[int, int]] = {}
    for file in files:
        with contextlib.suppress(OSError):  # decoding reports the error
            stamps[file] = file_stamp(Path(file))
    results = {f: cache[f][1] for f, stamp in stamps.items() if f in cache and cache[f][0] == stamp}
    remaining = [file for file in files if file not in results]
    if not remaining:
        return results
    try:
        for done, (file, info) in enumerate(_decode_in_processes(remaining, workers, decode), 1):
            results[file] = info
            progress(done, len(remaining))
    finally:  # also on interrupt
        # errors may be temporary (permissions, disk, memory), so they are not cached
        _write_cache(path, cache | {f: (stamps[f], r) for f, r in results.items() if f in stamps and not r.error})
    return results


def _decode_in_processes(
    files: Sequence[str], workers: int, decode: Callable[[str], ImageInfo]
) -> Iterator[tuple[str, ImageInfo]]:
    """Yield (file, result) in any order; retry the files in flight one by one where a worker dies."""
    queue = deque(files[i : i + _CHUNK_SIZE] for i in range(0, len(files), _CHUNK_SIZE))
    while queue:
        broken, retries = False, list[Sequence[str]]()
        in_flight: dict[Future[list[ImageInfo]], Sequence[str]] = {}
        with ProcessPoolExecutor(workers) as pool:
            while in_flight or (queue and not broken):
                try:
                    while queue and not broken and len(in_flight) < 2 * workers:
                        future = pool.submit(_decode_chunk, decode, queue[0])
                        in_flight[future] = queue.popleft()
                except BrokenProcessPool:
                    broken = True
                for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                    chunk = in_flight.pop(future)
                    try:
                        yield from zip(chunk, future.result(), strict=True)
                    except BrokenProcessPool:
                        broken = True
                        retries.append(chunk)
        for file in (file for chunk in retries for file in chunk):  # one process per file, to find the one that crashes
            with ProcessPoolExecutor(1) as pool:
                try:
                    yield file, pool.submit(decode, file).result()
                except BrokenProcessPool:
                    yield file, ImageInfo(0, 0, "", False, "", _WORKER_DIED)


def _decode_chunk(decode: Callable[[str], ImageInfo], files: Sequence[str]) -> list[ImageInfo]:
    return [decode(file) for file in files]


def _read_cache(path: Path) -> _Cache:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT_VERSION:
            return {}
        return {file: ((size, mtime), ImageInfo(*row)) for file, ((size, mtime), row) in content["pictures"].items()}
    except Exception:  # missing or corrupt
        return {}


def _write_cache(path: Path, cache: _Cache) -> None:
    rows = {file: (stamp, dataclasses.astuple(info)) for file, (stamp, info) in cache.items()}
    try:
        write_atomically(
            path,
            lambda temp: temp.write_text(json.dumps({"format": FORMAT_VERSION, "pictures": rows}), encoding="utf-8"),
        )
    except OSError as error:  # a full or read-only disk must not stop the check
        _LOG.warning("cannot cache the results of decoding: %s", error)
