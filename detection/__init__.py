"""Faster R-CNN on residual backbones (Ren et al., journal version; He et al., 2015, appendix A).

The public names; everything else in this package may change.
"""

import importlib
from typing import TYPE_CHECKING, Any

import backbone  # noqa: F401  # before torch, whose environment it sets
from detection.checkpoint.detector import load_detector, load_weights
from detection.config import Config, load_config
from detection.modeling.build import build_model
from detection.modeling.faster_rcnn import FasterRCNN

if TYPE_CHECKING:
    from detection.data import Annotations, register_format
    from detection.inference.detections import Detections
    from detection.inference.predictor import Predictor
    from detection.training.api import Run, evaluate, train
    from detection.training.planning.plan import make_plan

__version__ = "0.1.0"
__all__ = [
    "Annotations",
    "Config",
    "Detections",
    "FasterRCNN",
    "Predictor",
    "Run",
    "build_model",
    "evaluate",
    "load_config",
    "load_detector",
    "load_weights",
    "make_plan",
    "register_format",
    "train",
]
# what takes time to import (Lightning, plotting, the readers of data sets) is imported when it is first asked for
_LATER = {
    "Annotations": "detection.data",
    "Detections": "detection.inference.detections",
    "Predictor": "detection.inference.predictor",
    "Run": "detection.training.api",
    "evaluate": "detection.training.api",
    "make_plan": "detection.training.planning.plan",
    "register_format": "detection.data",
    "train": "detection.training.api",
}


def __getattr__(name: str) -> Any:
    if name == "data":  # detection.data.open without an import of its own
        return importlib.import_module("detection.data")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
