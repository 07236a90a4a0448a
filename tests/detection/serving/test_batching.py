import threading
import time

import numpy as np
import pytest

from detection.serving.batching import Batcher, Overloaded


def image(value, side=4):
    return np.full((side, 4, 3), value, np.uint8)


def test_requests_that_wait_go_together_and_each_has_its_own_result():
    started, go, sizes = threading.Event(), threading.Event(), []

    def detect(images):
        started.set()
        go.wait(5)
        sizes.append(len(images))
        return [int(x[0, 0, 0]) for x in images]

    batcher = Batcher(detect, batch_size=3, waiting=10, patience=0.02)
    first = batcher.submit(image(0))
    assert started.wait(5)
    others = [batcher.submit(image(i, 4 if i < 5 else 6)) for i in range(1, 7)]
    go.set()
    assert [future.result(5) for future in (first, *others)] == list(range(7))
    assert sizes == [1, 3, 1, 2]
    assert batcher.batches == [2, 1, 1]
    batcher.close()
    assert not batcher.thread.is_alive()


def test_beyond_the_queue_is_overload():
    started, go = threading.Event(), threading.Event()

    def detect(images):
        started.set()
        go.wait(5)
        return images

    batcher = Batcher(detect, batch_size=1, waiting=2)
    first = batcher.submit(image(0))
    assert started.wait(5)
    futures = [first, batcher.submit(image(1)), batcher.submit(image(2))]
    with pytest.raises(Overloaded) as caught:
        batcher.submit(image(3))
    assert caught.value.retry_after >= 1
    go.set()
    assert all(future.result(5) is not None for future in futures)  # nothing that was taken is lost
    batcher.close()


def test_an_error_is_its_batchs_alone():
    def detect(images):
        if int(images[0][0, 0, 0]) == 1:
            raise RuntimeError("no memory")
        return images

    batcher = Batcher(detect, batch_size=1)
    bad, good = batcher.submit(image(1)), batcher.submit(image(2))
    with pytest.raises(RuntimeError, match="no memory"):
        bad.result(5)
    assert good.result(5) is not None
    batcher.close()


def test_who_has_gone_is_not_computed_for():
    started, go, seen = threading.Event(), threading.Event(), []

    def detect(images):
        started.set()
        go.wait(5)
        seen.extend(int(x[0, 0, 0]) for x in images)
        return images

    batcher = Batcher(detect, batch_size=1)
    batcher.submit(image(0))
    assert started.wait(5)
    gone, stays = batcher.submit(image(1)), batcher.submit(image(2))
    assert gone.cancel()
    go.set()
    stays.result(5)
    time.sleep(0.01)
    assert seen == [0, 2]
    batcher.close()
