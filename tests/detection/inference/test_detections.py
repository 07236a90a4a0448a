import numpy as np
import pytest

from detection import Detections


def make_detections():
    return Detections(
        np.array([[1, 2, 4, 8], [0, 0, 2, 2], [5, 5, 9, 7]], dtype=np.float32),
        np.array([0.9, 0.5, 0.25], dtype=np.float32),
        np.array([2, 1, 2]),
        ("cat", "dog"),
        (7, 18),
    )


def test_indexing():
    detections = make_detections()
    assert len(detections) == 3
    assert detections.names == ["dog", "cat", "dog"]
    assert detections[detections.scores > 0.4].names == ["dog", "cat"]
    assert detections[:1].names == detections[0].names == ["dog"]
    assert len(detections[detections.scores > 1]) == 0
    assert detections[detections.scores > 1].boxes.shape == (0, 4)


def test_to_coco_computed_by_hand():
    assert make_detections().to_coco("a")[::2] == [
        {"image_id": "a", "category_id": 18, "bbox": [1.0, 2.0, 3.0, 6.0], "score": pytest.approx(0.9)},
        {"image_id": "a", "category_id": 18, "bbox": [5.0, 5.0, 4.0, 2.0], "score": 0.25},
    ]


def test_draw_does_not_modify_the_image():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    annotated = make_detections().draw(image)
    assert annotated.shape == image.shape
    assert annotated.any()
    assert not image.any()


def test_missing_supervision_raises_import_error():
    try:
        import supervision  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install supervision"):
            make_detections().to_supervision()
    else:
        assert make_detections().to_supervision().class_id.tolist() == [1, 0, 1]
