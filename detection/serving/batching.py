"""Requests that arrive together go through the network together: one thread detects, a bounded queue waits."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from typing import Any

from detection.evaluation.visualize import RGBImage

Detect = Callable[[Sequence[RGBImage]], Sequence[Any]]


class Overloaded(RuntimeError):
    """The queue is full; ``retry_after`` is the seconds after which to ask again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"overloaded: ask again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Job:
    image: RGBImage
    future: "Future[Any]" = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Hands images to a detector in batches of one size, in the order in which they came.

    Args:
        detect: a list of images -> as many results.
        batch_size: images of one size at once, at most.
        waiting: requests that wait, at most; :meth:`submit` raises beyond.
        patience: seconds that the first image of a batch waits for others.
    """

    def __init__(self, detect: Detect, batch_size: int = 4, waiting: int = 16, patience: float = 0.005) -> None:
        self.detect, self.batch_size, self.patience = detect, batch_size, patience
        self.queue: Queue[_Job | None] = Queue(waiting)
        self.seconds = 0.5  # of an image: a running mean, for Retry-After
        self.batches: list[int] = []  # how many batches there were of each size
        self.thread = threading.Thread(target=self._work, name="resdet-detect", daemon=True)
        self.thread.start()

    def submit(self, image: RGBImage) -> "Future[Any]":
        """Return the future result of an image.

        Raises:
            Overloaded: too many wait.
        """
        job = _Job(image)
        try:
            self.queue.put_nowait(job)
        except Full:
            raise Overloaded(max(1, round(self.queue.maxsize * self.seconds))) from None
        return job.future

    def close(self) -> None:
        """Detect on what waits, and end the thread."""
        self.queue.put(None)
        self.thread.join()

    def _work(self) -> None:
        held: _Job | None = None
        while True:
            first = held or self.queue.get()
            held = None
            if first is None:
                return
            batch, ended = [first], False
            until = time.monotonic() + self.patience
            while len(batch) < self.batch_size:
                try:
                    job = self.queue.get(timeout=max(until - time.monotonic(), 0.0001))
                except Empty:
                    break
                if job is None:
                    ended = True
                    break
                if job.image.shape != first.image.shape:
                    held = job
                    break
                batch.append(job)
            self._run(batch)
            if ended:
                return

    def _run(self, batch: list[_Job]) -> None:
        batch = [job for job in batch if job.future.set_running_or_notify_cancel()]  # whoever asked may have gone
        if not batch:
            return
        started = time.monotonic()
        try:
            results = self.detect([job.image for job in batch])
        except Exception as error:  # any of the network's: this batch's requests fail, the service goes on
            for job in batch:
                job.future.set_exception(error)
            return
        self.seconds += 0.2 * ((time.monotonic() - started) / len(batch) - self.seconds)
        self.batches += [0] * (len(batch) - len(self.batches))
        self.batches[len(batch) - 1] += 1
        for job, result in zip(batch, results, strict=True):
            job.future.set_result(result)
