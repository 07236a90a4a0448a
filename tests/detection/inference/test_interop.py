"""The forms of other projects, each with its library; FiftyOne's, which is not installed, with a stand-in of its labels."""

import sys
import types

import numpy as np
import pytest

from detection.inference.detections import Detections
from detection.inference.interop import sahi_model, to_fiftyone

FOUND = Detections(
    np.array([[10, 20, 50, 80], [0, 0, 4, 4]], np.float32),
    np.array([0.9, 0.2], np.float32),
    np.array([2, 1], np.int64),
    ("cat", "dog"),
    (3, 8),
)
IMAGE = np.zeros((100, 200, 3), np.uint8)


def test_supervision():
    supervision = pytest.importorskip("supervision")
    found = FOUND.to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.xyxy.tolist() == FOUND.boxes.tolist()
    assert found.class_id.tolist() == [1, 0]
    assert found["class_name"].tolist() == ["dog", "cat"]
    assert len(found[found.confidence > 0.5]) == 1
    assert len(FOUND[:0].to_supervision()) == 0


def test_sahi():
    predict = pytest.importorskip("sahi.predict")
    model = sahi_model(lambda image: FOUND, FOUND.classes, confidence_threshold=0.5)
    result = predict.get_prediction(IMAGE, model)
    (row,) = result.object_prediction_list
    assert row.bbox.to_xyxy() == [10, 20, 50, 80]
    assert (row.category.id, row.category.name) == (1, "dog")
    assert row.score.value == pytest.approx(0.9)
    assert (model.num_categories, model.category_names) == (2, ["cat", "dog"])
    assert sahi_model(lambda image: FOUND[:0], FOUND.classes).num_categories == 2


def test_fiftyone(monkeypatch):
    class Label:
        def __init__(self, **values):
            self.__dict__.update(values)

    stand_in = types.SimpleNamespace(Detection=Label, Detections=Label)
    monkeypatch.setitem(sys.modules, "fiftyone", stand_in)
    first, second = to_fiftyone(FOUND, 100, 200).detections
    assert (first.label, second.label) == ("dog", "cat")
    assert first.bounding_box == pytest.approx([0.05, 0.2, 0.2, 0.6])
    assert first.confidence == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("sahi", lambda: sahi_model(len, ("a",))),
        ("fiftyone", lambda: to_fiftyone(FOUND, 1, 1)),
        ("supervision", FOUND.to_supervision),
    ],
)
def test_a_library_that_is_missing_is_named(package, call, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"requires? the package {package}"):
        call()
