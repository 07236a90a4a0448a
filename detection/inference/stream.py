"""Detections of a stream of images: reading runs ahead in threads, the network takes batches of images of one size, and
what is made of the detections can be drawn and written behind it."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from detection.evaluation.visualize import RGBImage
from detection.inference.detections import Detections
from detection.inference.sources import Frame
from detection.ops.device import images_at_once

_LOG = logging.getLogger(__name__)
Detect = Callable[[list[RGBImage]], list[Detections]]


def detect_stream(
    frames: Iterator[Frame], detect: Detect, batch_size: int
) -> Iterator[tuple[Frame, Detections | None]]:
    """Yield every frame with its detections, None where it has no image, in order.

    Args:
        frames: in their order.
        detect: on a list of images.
        batch_size: images of one size that are handed over together. Images of several sizes would be padded, which changes
            what the network sees at their borders.
    """
    waiting: list[Frame] = []
    for frame in frames:
        shape = None if frame.image is None else frame.image.shape
        if waiting and (shape is None or waiting[0].image is None or shape != waiting[0].image.shape):
            yield from _detect(waiting, detect)
            waiting = []
        if frame.image is None:
            yield frame, None
            continue
        waiting.append(frame)
        if len(waiting) == batch_size:
            yield from _detect(waiting, detect)
            waiting = []
    yield from _detect(waiting, detect)


def _detect(frames: list[Frame], detect: Detect) -> Iterator[tuple[Frame, Detections | None]]:
    if frames:
        found = detect([frame.image for frame in frames if frame.image is not None])
        yield from zip(frames, found, strict=True)


def choose_batch_size(predict: Callable[[RGBImage], Any], image: RGBImage, device: Any) -> int:
    """Return how many images of a size a device takes at once: what its memory holds, at most 16; 1 on a CPU, where larger
    batches are no faster and leave the cache."""
    count = images_at_once(lambda: predict(image), device)
    _LOG.debug("batches of %d", count)
    return count


class Behind:
    """Runs jobs in threads behind the loop that makes them, at most ``ahead`` of them waiting; a context manager. Errors of
    a job are raised by :meth:`submit` or at the end."""

    def __init__(self, workers: int = 2, ahead: int = 8) -> None:
        self.pool, self.ahead = ThreadPoolExecutor(workers, "resdet-write"), ahead
        self.jobs: deque[Future[Any]] = deque()

    def submit(self, job: Callable[..., Any], *args: Any) -> None:
        """Run ``job(*args)`` in a thread; wait while too many are waiting."""
        self.jobs.append(self.pool.submit(job, *args))
        while len(self.jobs) > self.ahead or (self.jobs and self.jobs[0].done()):
            self.jobs.popleft().result()

    def __enter__(self) -> "Behind":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            while self.jobs:
                self.jobs.popleft().result()
