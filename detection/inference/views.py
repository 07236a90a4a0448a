"""One image seen several ways: test-time augmentation (scales and a horizontal flip), and tiles of a large image by SAHI."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torchvision.ops import batched_nms

from detection.evaluation.visualize import RGBImage
from detection.inference.detections import Detections

# an image and the factor on its usual size -> detections in its pixels
DetectAt = Callable[[RGBImage, float], Detections]


@dataclass(frozen=True)
class Views:
    """How an image is seen.

    Attributes:
        scales: factors on the usual size.
        flip: also flipped horizontally.
        tile: side of the tiles that a larger image is cut into, in its pixels; None takes it whole. The whole image is seen
            beside them, for objects larger than a tile.
        overlap: fraction of a tile that it shares with the next.

    Raises:
        ValueError: a value out of range.
    """

    scales: Sequence[float] = (1.0,)
    flip: bool = False
    tile: int | None = None
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales):
            raise ValueError(f"scales are factors from 0.1 to 10, got {list(self.scales)}")
        if self.tile is not None and self.tile < 16:
            raise ValueError(f"a tile has a side of at least 16 pixels, got {self.tile}")
        if not 0 <= self.overlap < 0.9:
            raise ValueError(f"the overlap of tiles is a fraction from 0 to 0.9, got {self.overlap}")

    @property
    def augmented(self) -> bool:
        """Whether an image is seen at several scales or flipped."""
        return self.flip or tuple(self.scales) != (1.0,)


def detect_augmented(detect: DetectAt, image: RGBImage, views: Views, nms_iou: float, top: int) -> Detections:
    """Return the detections of all scales and both directions together, after class-wise NMS over them (as detectron2's
    ``GeneralizedRCNNWithTTA`` merges boxes)."""
    found: list[Detections] = []
    for scale in views.scales:
        found.append(detect(image, scale))
        if views.flip:
            found.append(flipped(detect(np.ascontiguousarray(image[:, ::-1]), scale), image.shape[1]))
    return merge(found, nms_iou, top)


def flipped(detections: Detections, width: int) -> Detections:
    """Return the detections of a horizontally flipped image of a width in the image itself."""
    x1, y1, x2, y2 = detections.boxes.T
    boxes = np.stack((width - x2, y1, width - x1, y2), axis=1)
    return Detections(boxes, detections.scores, detections.labels, detections.classes, detections.category_ids)


def merge(found: Sequence[Detections], nms_iou: float, top: int) -> Detections:
    """Return the best ``top`` detections of several of one image after class-wise NMS."""
    boxes, scores, labels = (np.concatenate([getattr(d, key) for d in found]) for key in ("boxes", "scores", "labels"))
    keep = batched_nms(*(torch.from_numpy(x) for x in (boxes, scores, labels)), nms_iou)[:top].numpy()
    return Detections(boxes[keep], scores[keep], labels[keep], found[0].classes, found[0].category_ids)


def detect_tiles(model: Any, image: RGBImage, views: Views, template: Detections) -> Detections:
    """Return the detections of an image's tiles and of the whole image, merged by SAHI (greedy merging of a class' boxes
    whose intersection is more than half of the smaller one).

    Args:
        model: of :mod:`detection.inference.interop`.
        image: larger than a tile.
        views: the tiles.
        template: any detections of the detector, for its classes.

    Raises:
        ImportError: sahi is not installed.
    """
    try:
        from sahi.predict import get_sliced_prediction
    except ImportError as error:
        raise ImportError("tiles require SAHI: pip install 'resdet[tiles]'") from error
    result = get_sliced_prediction(
        image,
        model,
        slice_height=views.tile,
        slice_width=views.tile,
        overlap_height_ratio=views.overlap,
        overlap_width_ratio=views.overlap,
        postprocess_type="GREEDYNMM",
        postprocess_match_metric="IOS",
        postprocess_match_threshold=0.5,
        force_postprocess_type=True,  # SAHI would take NMS for detectors with low scores
        verbose=0,
    )
    rows = sorted(result.object_prediction_list, key=lambda row: -row.score.value)
    return Detections(
        np.array([row.bbox.to_xyxy() for row in rows], dtype=np.float32).reshape(-1, 4),
        np.array([row.score.value for row in rows], dtype=np.float32),
        np.array([row.category.id + 1 for row in rows], dtype=np.int64),
        template.classes,
        template.category_ids,
    )
