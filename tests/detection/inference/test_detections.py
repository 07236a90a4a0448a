import numpy as np
import pytest

from detection import Detections


def some():
    return Detections(
        np.array([[1, 2, 4, 8], [0, 0, 2, 2], [5, 5, 9, 7]], dtype=np.float32),
        np.array([0.9, 0.5, 0.25], dtype=np.float32),
        np.array([2, 1, 2]),
        ("cat", "dog"),
        (7, 18),
    )


def test_indexing():
    found = some()
    assert len(found) == 3
    assert found.names == ["dog", "cat", "dog"]
    assert found[found.scores > 0.4].names == ["dog", "cat"]
    assert found[:1].names == found[0].names == ["dog"]
    assert len(found[found.scores > 1]) == 0
    assert found[found.scores > 1].boxes.shape == (0, 4)


def test_to_coco_computed_by_hand():
    assert some().to_coco("a")[::2] == [
        {"image_id": "a", "category_id": 18, "bbox": [1.0, 2.0, 3.0, 6.0], "score": pytest.approx(0.9)},
        {"image_id": "a", "category_id": 18, "bbox": [5.0, 5.0, 4.0, 2.0], "score": 0.25},
    ]


def test_draw_does_not_modify_the_image():
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    drawn = some().draw(image)
    assert drawn.shape == image.shape
    assert drawn.any()
    assert not image.any()


def test_missing_supervision_raises_import_error():
    try:
        import supervision  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install supervision"):
            some().to_supervision()
    else:
        assert some().to_supervision().class_id.tolist() == [1, 0, 1]
