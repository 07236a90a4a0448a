"""What a predictor is pointed at, one image or frame after another: files, folders, wildcards, lists, addresses, videos,
cameras, standard input."""

import io
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from detection.data.files import read_lines
from detection.data.image import MAX_PIXELS, UnreadableImage, as_pixels, find_images, read_image
from detection.evaluation.visualize import RGBImage
from detection.inference.urls import MAX_BYTES, TIMEOUT, fetch_bytes, is_url
from detection.inference.video import frame_count, is_video, read_frames

STDIN = "-"
_LISTS = (".txt",)
T = TypeVar("T")


@dataclass(frozen=True)
class Frame:
    """An image, or a frame of a video, or what kept it from being read.

    Attributes:
        source: the file, address or camera.
        image: uint8 RGB [H, W, 3]; None where it cannot be read.
        index: of a video's frame, from 0 on; None for an image.
        seconds: of a video's frame since the beginning.
        rate: frames per second of a video.
        error: why there is no image.
    """

    source: str
    image: RGBImage | None
    index: int | None = None
    seconds: float | None = None
    rate: Fraction | None = None
    error: str = ""

    @property
    def name(self) -> str:
        """A file name's stem for what is made of the frame."""
        path = "stdin" if self.source == STDIN else self.source.partition("?")[0].rstrip("/").rpartition("/")[2]
        stem = Path(path).stem or "image"
        stem = "".join(c if c.isalnum() or c in "-_.()[] +," else "_" for c in stem)
        return stem if self.index is None else f"{stem}-{self.index:06d}"


@dataclass(frozen=True)
class Limits:
    """What may be read.

    Attributes:
        max_pixels: of an image.
        max_bytes, timeout: of an address.
        allow_private_urls: addresses of private networks may be asked.
        max_frames: of a video or camera; None takes all.
        channels: that the detector takes; 3 is RGB.
    """

    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES
    timeout: float = TIMEOUT
    allow_private_urls: bool = False
    max_frames: int | None = None
    channels: int = 3


def find_sources(inputs: Iterable[str | Path], exclude: Iterable[Path] = ()) -> list[str]:
    """Return the single images, videos, addresses and cameras that inputs name.

    Args:
        inputs: image and video files, folders, wildcards, lists (FILE.txt with one input a line; names are relative to the
            working directory, or else to the list), http(s) addresses, rtsp://…, a webcam's number, or "-" for standard
            input: an image, or a list.
        exclude: as of :func:`detection.data.image.find_images`.

    Raises:
        FileNotFoundError, ValueError: an input does not exist, or there is nothing in it.
    """
    found: list[str] = []
    exclude = list(exclude)
    for given in inputs:
        text = str(given)
        if text == STDIN or is_url(text) or (is_video(text) and not any(sign in text for sign in "*?[")):
            found.append(text)
        elif "://" in text:
            raise ValueError(f"{text!r}: wanted http://, https:// or rtsp://, or a file")
        elif text.isdecimal() and not Path(text).exists():
            found.append(text)
        elif Path(text).suffix.lower() in _LISTS and Path(text).is_file():
            found += find_sources(_listed(Path(text)), exclude)
        else:
            found += [str(file) for file in find_images([Path(text)], exclude)]
    if not found:
        raise ValueError("no images: nothing was named")
    return found


def _listed(file: Path) -> list[str]:
    """Return the inputs that a list names, without empty lines and comments (# …)."""
    lines = [line.strip() for line in read_lines(file)]
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise ValueError(f"{file} names no image: wanted one a line")
    for name in names:
        if Path(name).suffix.lower() in _LISTS:
            raise ValueError(f"{file}: a list may not name another list, got {name!r}")
    return [name if "://" in name or Path(name).exists() else str(file.parent / name) for name in names]


def read_source(source: str, limits: Limits) -> Iterator[Frame]:
    """Yield the image of a source, or the frames of a video; one with an ``error`` where it cannot be read."""
    if is_video(source) or (source.isdecimal() and not Path(source).exists()):
        yield from _video(source, limits)
        return
    if source == STDIN:
        yield from _stdin(limits)
        return
    yield _image(source, limits)


def _image(source: str, limits: Limits) -> Frame:
    try:
        if is_url(source):
            content = fetch_bytes(
                source,
                max_bytes=limits.max_bytes,
                timeout=limits.timeout,
                allow_private=limits.allow_private_urls,
            )
            return Frame(source, decode(content, limits.max_pixels, source, limits.channels))
        return Frame(source, read_image(source, limits.max_pixels, limits.channels))
    except (ValueError, OSError) as error:
        return Frame(source, None, error=str(error))


def decode(content: bytes, max_pixels: int, where: str, channels: int = 3) -> RGBImage:
    """Return the image in bytes, uint8 RGB [H, W, 3], or of as many channels, as
    :func:`detection.data.image.read_image` does of a file.

    Raises:
        UnreadableImage: no image, or a larger one.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise UnreadableImage(f"{where} has {width}x{height} pixels, more than the {max_pixels} allowed")
            return np.array(as_pixels(image, channels))
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's decoders raise many types of error on corrupt files
        raise UnreadableImage(f"{where} cannot be read as an image: {error}") from error


def _stdin(limits: Limits) -> Iterator[Frame]:
    content = sys.stdin.buffer.read(limits.max_bytes + 1)
    if len(content) > limits.max_bytes:
        yield Frame(STDIN, None, error=f"standard input has more than the {limits.max_bytes} bytes allowed")
        return
    try:
        names = content.decode("utf-8").split("\n") if b"\0" not in content else []
    except UnicodeDecodeError:
        names = []
    names = [name.strip() for name in names if name.strip()]
    if not names or len(names[0]) > 4096:
        try:
            yield Frame(STDIN, decode(content, limits.max_pixels, "standard input", limits.channels))
        except UnreadableImage as error:
            yield Frame(STDIN, None, error=str(error))
        return
    for name in names:
        try:
            for source in find_sources([name]):
                yield from read_source(source, limits)
        except (ValueError, OSError) as error:
            yield Frame(name, None, error=str(error))


def _video(source: str, limits: Limits) -> Iterator[Frame]:
    index = 0
    try:
        for image, seconds, rate in read_frames(source):
            if limits.max_frames is not None and index >= limits.max_frames:
                return
            yield Frame(source, image, index, seconds, rate)
            index += 1
    except (ValueError, OSError) as error:
        yield Frame(source, None, index, error=str(error))


def count_frames(sources: Sequence[str], limits: Limits) -> int | None:
    """Return how many images and frames sources have together; None where a camera or standard input is among them."""
    total = 0
    for source in sources:
        if source == STDIN:
            return None
        if not is_video(source) and not (source.isdecimal() and not Path(source).exists()):
            total += 1
            continue
        try:
            count = frame_count(source)
        except (ValueError, OSError):
            count = 1  # the error
        if count is None and limits.max_frames is None:
            return None
        total += min(x for x in (count, limits.max_frames) if x is not None)
    return total


def read_sources(sources: Sequence[str], limits: Limits, workers: int = 2) -> Iterator[Frame]:
    """Yield the frames of sources in their order, while threads decode and fetch those that come next."""
    with ThreadPoolExecutor(workers, "resdet-read") as pool:
        ahead: deque[Future[Frame] | Iterator[Frame]] = deque()
        rest = iter(sources)

        def fill() -> None:
            while len(ahead) < 2 * workers and (source := next(rest, None)) is not None:
                single = source != STDIN and not is_video(source) and not source.isdecimal()
                ahead.append(pool.submit(_image, source, limits) if single else read_source(source, limits))

        fill()
        while ahead:
            item = ahead.popleft()
            if isinstance(item, Future):
                frame = item.result()
                fill()
                yield frame
            else:
                yield from prefetch(item, 2 * workers)
                fill()


def prefetch(items: Iterator[T], size: int) -> Iterator[T]:
    """Yield the items of an iterator, which runs in a thread that is at most ``size`` items ahead; its error is raised
    here. Where the consumer stops early, the thread stops at its next item."""
    queue: Queue[tuple[bool, Any]] = Queue(size)
    stop = Event()

    def put(item: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            try:
                queue.put(item, timeout=0.1)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    break
            else:
                put((False, None))
        except BaseException as error:  # raised where it is waited for
            put((False, error))
        finally:
            close: Callable[[], None] | None = getattr(items, "close", None)
            if close is not None:
                close()

    thread = Thread(target=work, name="resdet-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            try:
                more, value = queue.get(timeout=0.5)
            except Empty:
                continue
            if more:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        stop.set()
        thread.join(timeout=5)
