"""Doctests of the adapters."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["torchvision", "timm", "transformers", "detectron2"])
def test_examples(name):
    if name != "timm":  # that adapter does not import timm
        pytest.importorskip(name)
    result = doctest.testmod(importlib.import_module(f"backbone.adapters.{name}"))
    assert result.attempted >= 2
    assert not result.failed
