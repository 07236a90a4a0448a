"""Residual networks (He et al., 2015). Imports torch, numpy and safetensors, but nothing of the detection package.

The names here are the public API; everything else in this package may change.
"""

import os
import sys

if sys.platform == "darwin":
    # read when torch is imported: operators that Apple's GPU lacks run on the CPU then, and torch names them
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

from backbone.features import FeatureSpec
from backbone.fpn import FPN, PyramidTrunk
from backbone.norm import FrozenBatchNorm2d, freeze_norms
from backbone.recipe import RECIPES, Recipe
from backbone.resnet import (
    ResNet,
    Trunk,
    cifar_resnet,
    plain18,
    plain34,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    split_c4,
    wide_resnet50_2,
    wide_resnet101_2,
)
from backbone.weights import LoadReport, load_weights, require_loaded

__all__ = [
    "FPN",
    "RECIPES",
    "FeatureSpec",
    "FrozenBatchNorm2d",
    "LoadReport",
    "PyramidTrunk",
    "Recipe",
    "ResNet",
    "Trunk",
    "cifar_resnet",
    "freeze_norms",
    "load_weights",
    "plain18",
    "plain34",
    "require_loaded",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "split_c4",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
