import dataclasses
import json

import pytest

from detection.checkpoint.exported import ExportInfo, parse_info, target_of

INFO = ExportInfo(
    ("cat", "dog"),
    (1, 7),
    "uint8",
    1,
    None,
    False,
    800,
    1333,
    10**8,
    100,
    0.05,
    0.5,
    "fpn",
    "resnet50",
    "torchvision",
    {},
)


def test_the_text_holds_everything():
    info = dataclasses.replace(INFO, size=(800, 1344), parity={"box": 1e-5}, versions={"torch": "2.14"}, command="a b")
    assert parse_info(info.to_json(), "d.onnx") == info
    assert info.labels.category_ids == (1, 7)


@pytest.mark.parametrize(
    ("changes", "takes"),
    [({}, False), ({"batch": None}, True), ({"size": (8, 8)}, True), ({"batch": None, "resize": True}, False)],
)
def test_sizes_are_an_input_where_images_may_be_padded(changes, takes):
    assert dataclasses.replace(INFO, **changes).takes_sizes is takes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "lacks the metadata 'resdet'"),
        ("", "no exported detector"),
        ("[]", "cannot be read"),
        ("{", "cannot be read"),
        ('{"format": 2}', "its format is 2, and this version of resdet reads 1"),
        (json.dumps({**json.loads(INFO.to_json()), "more": 1}), "more"),
        (json.dumps({**json.loads(INFO.to_json()), "classes": ["cat"]}), "1 classes with 2 category ids"),
    ],
)
def test_other_texts_are_refused(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_info(text, "d.onnx")
    assert "d.onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "target"),
    [("a.onnx", "onnx"), ("b/a.XML", "openvino"), ("a.pt2", "torch-export"), ("best.pth", None), ("a", None)],
)
def test_a_file_is_told_by_its_name(name, target):
    assert target_of(name) == target
