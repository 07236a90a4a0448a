from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.dataset_check.issues import (
    KINDS,
    AnnotatedImage,
    ImageInfo,
    Issue,
    box_issues,
    class_issues,
    decode_image,
    duplicate_images,
    image_issues,
)

GOOD = ImageInfo(40, 60, "RGB", False, "d", "")


def image(*objects, size=(40, 60)):
    rows = [(str(i), label, box, False) for i, (label, box) in enumerate(objects, 1)]
    return AnnotatedImage(Path("a.jpg"), "a.xml", size, rows)


def found(issues):
    return [(issue.kind, issue.object) for issue in issues]


def save(path, mode="RGB", seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return str(path)


def test_an_issue_says_what_training_does():
    lost = Issue("degenerate box", "a.xml", "2", "cat 1, 1, 1, 5").to_json()
    assert (lost["kind"], lost["object"], lost["drops"]) == ("degenerate box", "2", True)
    assert lost["then"] == KINDS["degenerate box"][1]
    assert Issue("not RGB", "a.jpg").to_json()["drops"] is False


def test_pixels_decide_the_digest(tmp_path):
    a, b = decode_image(save(tmp_path / "a.png")), decode_image(save(tmp_path / "b.bmp"))
    other = decode_image(save(tmp_path / "c.png", seed=1))
    assert (a.height, a.width, a.mode, a.rotated, a.error) == (4, 6, "RGB", False, "")
    assert a.digest == b.digest != other.digest


def test_the_shape_is_part_of_the_digest(tmp_path):
    Image.new("RGB", (4, 6)).save(tmp_path / "a.png")
    Image.new("RGB", (6, 4)).save(tmp_path / "b.png")
    assert decode_image(str(tmp_path / "a.png")).digest != decode_image(str(tmp_path / "b.png")).digest


def test_exif_rotation_swaps_the_sides(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    info = decode_image(save(tmp_path / "a.jpg", exif=exif))
    assert (info.height, info.width, info.rotated) == (6, 4, True)
    assert not decode_image(save(tmp_path / "b.jpg")).rotated


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_files_that_cannot_be_read_have_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    info = decode_image(str(tmp_path / "a.png"))
    assert (info.height, info.width, info.digest) == (0, 0, "")
    assert "a.png" in info.error


def test_image_issues_by_kind():
    assert found(image_issues(image(), GOOD)) == []
    assert found(image_issues(image(size=None), GOOD)) == []
    everything = ImageInfo(60, 40, "L", True, "d", "")
    kinds = [kind for kind, _ in found(image_issues(image(), everything))]
    assert kinds == ["another size stated", "turned picture", "not RGB"]
    broken = ImageInfo(0, 0, "", False, "", "truncated")
    assert found(image_issues(image(), broken)) == [("unreadable picture", None)]


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((1.0, 1, 9, 9), None),
        ((0.0, 0, 60, 40), None),
        ((5.0, 5, 5, 9), "degenerate box"),
        ((5.0, 9, 9, 5), "degenerate box"),
        ((5.0, 5, float("nan"), 9), "degenerate box"),
        ((5.0, 5, float("inf"), 9), "degenerate box"),
        ((60.0, 5, 70, 9), "box outside"),
        ((5.0, -9, 9, 0), "box outside"),
        ((-1.0, 5, 9, 9), "box across the edge"),
        ((5.0, 5, 9, 41), "box across the edge"),
    ],
)
def test_box_issues_by_kind(box, kind):
    assert found(box_issues(image(("cat", box)), (40, 60))) == ([] if kind is None else [(kind, "1")])


def test_without_a_size_no_box_is_outside():
    assert found(box_issues(image(("cat", (600.0, 5, 700, 9))), None)) == []


def test_a_repeated_box_is_of_the_same_class():
    box = (1.0, 1, 9, 9)
    assert found(box_issues(image(("cat", box), ("dog", box), ("cat", box)), (40, 60))) == [("repeated box", "3")]


def test_the_same_pixels_twice():
    splits = {
        "train": [("a", "1"), ("b", "2"), ("c", "1"), ("broken", ""), ("broken too", "")],
        "val": [("d", "3"), ("e", "2")],
    }
    issues = list(duplicate_images(splits))
    assert [(issue.kind, issue.file) for issue in issues] == [
        ("same picture twice", "c"),
        ("picture in train and val", "e"),
    ]
    assert "a" in issues[0].found
    assert "b" in issues[1].found
    assert list(duplicate_images({})) == []


def test_a_file_in_both_splits_is_in_train_and_val():
    (issue,) = duplicate_images({"train": [("a", "1")], "val": [("a", "1")]})
    assert issue.kind == "picture in train and val"


def test_classes_without_objects():
    splits = {"train": {"cat": 3, "dog": 0, "cow": 0}, "val": {"cat": 1, "dog": 0, "fox": 2, "cow": 5}}
    issues = list(class_issues(splits, {"train": "train.json", "val": "val.json"}))
    assert [(issue.kind, issue.file, issue.found.split(":")[0]) for issue in issues] == [
        ("class in one set alone", "train.json", "cow"),
        ("class without objects", "train.json", "dog"),
        ("class in one set alone", "train.json", "fox"),
    ]
