"""Shared fixtures."""

import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browser import Browser, start_browser
from runs import THIN

from backbone.resnet import FACTORIES


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def thin_networks() -> Iterator[None]:
    """Make resnet18 thin for a module of tests (thin.py)."""
    whole = dict(FACTORIES)
    runpy.run_path(str(THIN))
    yield
    FACTORIES.update(whole)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with data/ and weights/; tests that use it have the marker ``data``."""
    folder = os.environ.get("RESDET_SHARED")
    if not folder:
        pytest.fail("tests marked `data` require the folder of real data in RESDET_SHARED (make test-data)")
    return Path(folder)


@pytest.fixture(scope="session")
def _chromium() -> Iterator[Browser]:
    browser = Browser(start_browser())
    yield browser
    browser.driver.quit()


@pytest.fixture
def browser(_chromium: Browser) -> Browser:
    """Return a headless Chromium without network, to open pages from files."""
    return _chromium


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a thin C4 detector ("weights") and its files by format, of a free size and batch; made once."""
    from exports import export_all, save_random

    whole = dict(FACTORIES)
    runpy.run_path(str(THIN))
    try:
        folder = tmp_path_factory.mktemp("exported")
        weights = save_random(folder / "best.pth")
        return {"weights": weights, **export_all(weights, folder)}
    finally:
        FACTORIES.update(whole)
