"""Detections of one image, as returned by a predictor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detection.evaluation.visualize import BoxAnnotations, draw


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image, by decreasing score.

    Attributes:
        boxes: float32 [N, 4], xyxy in the original image's pixels, exclusive right and bottom edges.
        scores: float32 [N], 0..1.
        labels: int64 [N], 1..K.
        classes: the K class names of the detector; label k is classes[k - 1].
        category_ids: the K category ids of the classes in COCO results.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Any) -> "Detections":
        """Select detections by mask, slice or indices; an integer selects one."""
        indices = np.atleast_1d(np.arange(len(self))[index])
        return Detections(
            self.boxes[indices], self.scores[indices], self.labels[indices], self.classes, self.category_ids
        )

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.classes[label - 1] for label in self.labels]

    def to_coco(self, image_id: Any) -> list[dict[str, Any]]:
        """Return COCO results: image_id, category_id, bbox [x, y, w, h] and score per detection."""
        return [
            {
                "image_id": image_id,
                "category_id": self.category_ids[label - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for (x1, y1, x2, y2), score, label in zip(
                self.boxes.astype(np.float64).tolist(), self.scores.tolist(), self.labels.tolist(), strict=True
            )
        ]

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections``, whose class ids are zero-based.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            import supervision  # an optional dependency
        except ImportError as error:
            raise ImportError(
                "Detections.to_supervision() requires the package supervision: pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.labels - 1, data={"class_name": np.array(self.names)}
        )

    def draw(self, image: "NDArray[np.uint8] | Image.Image") -> NDArray[np.uint8]:
        """Return a copy of the RGB image [H, W, 3] with boxes, names and scores drawn on it."""
        annotations = BoxAnnotations(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist())
        return draw(np.asarray(image), annotations, self.classes)


def label_filter(classes: Sequence[str] | None, known: Sequence[str]) -> frozenset[int] | None:
    """Return the labels of class names, or None for all.

    Raises:
        ValueError: unknown class names; lists the detector's.
    """
    if classes is None:
        return None
    if unknown := sorted(set(classes) - set(known)):
        raise ValueError(f"the detector has no class {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
    return frozenset(known.index(name) + 1 for name in classes)
