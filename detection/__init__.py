"""Faster R-CNN on residual backbones (Ren et al., journal version; He et al., 2015, appendix A)."""

from detection.checkpoint.detector import load_detector, load_weights
from detection.config import Config, load_config
from detection.modeling.build import build_model
from detection.modeling.faster_rcnn import FasterRCNN

__version__ = "0.1.0"
__all__ = ["Config", "FasterRCNN", "build_model", "load_config", "load_detector", "load_weights"]
