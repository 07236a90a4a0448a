"""What tests share: real data where it is, small scenes where it is not."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shared() -> Path:
    """The folder with data/ and weights/; tests that use it carry the marker ``data``."""
    folder = os.environ.get("RESDET_SHARED")
    if not folder:
        pytest.fail("tests marked `data` want the folder of real data in RESDET_SHARED (make test-data)")
    return Path(folder)
