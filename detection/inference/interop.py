"""Detections in the forms of SAHI and FiftyOne; supervision's is :meth:`Detections.to_supervision`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from detection.evaluation.visualize import RGBImage
from detection.inference.detections import Detections


def sahi_model(
    detect: Callable[[RGBImage], Detections], classes: tuple[str, ...], confidence_threshold: float = 0.0
) -> Any:
    """Return a ``sahi.DetectionModel`` of a predictor, for ``sahi.predict.get_sliced_prediction`` and its like.

    Args:
        detect: a :class:`Predictor`, or another function of an RGB image.
        classes: its classes; SAHI's category ids are zero-based.
        confidence_threshold: detections with a lower score are left out.

    Raises:
        ImportError: sahi is not installed.
    """
    try:
        from sahi import DetectionModel
        from sahi.prediction import ObjectPrediction
    except ImportError as error:
        raise ImportError("SAHI's interface requires the package sahi: pip install 'resdet[tiles]'") from error

    class ResDetModel(DetectionModel):
        """SAHI's interface to a predictor."""

        has_mask = False

        def set_model(self, model: Any, **kwargs: Any) -> None:
            self.model = model
            self.category_mapping = {str(i): name for i, name in enumerate(classes)}

        @property
        def num_categories(self) -> int:
            return len(classes)

        @property
        def category_names(self) -> list[str]:
            return list(classes)

        def perform_inference(self, image: RGBImage) -> None:
            self._original_predictions = self.model(np.ascontiguousarray(image))

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = None, full_shape_list: Any = None
        ) -> None:
            found = self._original_predictions
            shift = _first(shift_amount_list) or [0, 0]
            shape = _first(full_shape_list)
            rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=box,
                        score=score,
                        category_id=label - 1,
                        category_name=classes[label - 1],
                        shift_amount=shift,
                        full_shape=shape,
                    )
                    for box, score, label in rows
                    if score >= self.confidence_threshold and box[0] < box[2] and box[1] < box[3]
                ]
            ]

    return ResDetModel(model=detect, device="cpu", confidence_threshold=confidence_threshold)


def _first(values: Any) -> Any:
    """Return the only one of a list of lists; SAHI also hands over the inner list."""
    if values and isinstance(values[0], list | tuple):
        return values[0]
    return values or None


def to_fiftyone(detections: Detections, height: int, width: int) -> Any:
    """Return ``fiftyone.Detections`` of an image, whose boxes are [left, top, width, height] in fractions of its sides.

    Raises:
        ImportError: fiftyone is not installed.
    """
    try:
        import fiftyone
    except ImportError as error:
        raise ImportError("FiftyOne's labels require the package fiftyone: pip install fiftyone") from error
    rows = zip(detections.boxes.astype(np.float64).tolist(), detections.scores.tolist(), detections.names, strict=True)
    return fiftyone.Detections(
        detections=[
            fiftyone.Detection(
                label=name,
                bounding_box=[x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height],
                confidence=score,
            )
            for (x1, y1, x2, y2), score, name in rows
        ]
    )
