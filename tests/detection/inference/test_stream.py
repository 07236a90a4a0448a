import threading
import time

import numpy as np
import pytest

from detection.inference.sources import Frame
from detection.inference.stream import Behind, choose_batch_size, detect_stream


def frames(sides):
    return [Frame(str(i), None if side is None else np.full((side, 4, 3), i, np.uint8)) for i, side in enumerate(sides)]


def test_batches_are_of_one_size_and_results_in_order():
    batches = []

    def detect(images):
        batches.append([image.shape[0] for image in images])
        return [int(image[0, 0, 0]) for image in images]

    found = list(detect_stream(iter(frames([5, 5, 5, 7, None, 7, 7, 5])), detect, 2))
    assert [frame.source for frame, _ in found] == list("01234567")
    assert [result for _, result in found] == [0, 1, 2, 3, None, 5, 6, 7]
    assert batches == [[5, 5], [5], [7], [7, 7], [5]]


def test_a_cpu_takes_one_at_a_time():
    import torch

    assert choose_batch_size(lambda image: 1 // 0, np.zeros((4, 4, 3), np.uint8), torch.device("cpu")) == 1


def test_jobs_run_behind_and_are_waited_for():
    done, most = [], []
    lock, running = threading.Lock(), [0]

    def job(i):
        with lock:
            running[0] += 1
            most.append(running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
            done.append(i)

    with Behind(workers=2, ahead=3) as behind:
        for i in range(9):
            behind.submit(job, i)
            assert i - len(done) <= 3 + 2
    assert sorted(done) == list(range(9))
    assert max(most) == 2


def test_errors_of_jobs_are_raised():
    with pytest.raises(ZeroDivisionError), Behind() as behind:
        behind.submit(lambda: 1 // 0)
