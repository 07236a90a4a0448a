import dataclasses

import numpy as np
import pytest

from detection.classification.config import ImageDataConfig

CIFAR = ImageDataConfig(format="cifar10", crop=32, short_side=None, eval_short_side=None, pad=4, workers=0)


@pytest.fixture
def cifar(tmp_path):
    """CIFAR-10 binary files with three records each, with increasing pixel values."""
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    for k, name in enumerate(names):
        records = np.zeros((3, 3073), dtype=np.uint8)
        records[:, 0] = (k + np.arange(3)) % 10
        records[:, 1:] = np.arange(3072) % 251
        records.tofile(tmp_path / name)
    return dataclasses.replace(CIFAR, root=str(tmp_path))
