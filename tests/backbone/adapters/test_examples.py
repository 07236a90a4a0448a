"""The examples in the docstrings, as they stand there."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["torchvision", "timm", "transformers", "detectron2"])
def test_examples(name):
    if name != "timm":  # whose face needs no timm
        pytest.importorskip(name)
    result = doctest.testmod(importlib.import_module(f"backbone.adapters.{name}"))
    assert result.attempted >= 2
    assert not result.failed
