"""Shared fixtures."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with data/ and weights/; tests that use it have the marker ``data``."""
    folder = os.environ.get("RESDET_SHARED")
    if not folder:
        pytest.fail("tests marked `data` require the folder of real data in RESDET_SHARED (make test-data)")
    return Path(folder)
