import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import Annotations
from detection.dataset_check.issues import (
    ImageInfo,
    class_counts,
    class_issues,
    decode_image,
    duplicate_images,
    image_issues,
)

GOOD = ImageInfo(40, 60, "RGB", False, "d", "")
ONE = Annotations.from_arrays(["a.jpg"], [[]], [[]], ["cat"], sizes=[(40, 60)])


def split(name, counts):
    """Return annotations with so many objects of each class."""
    labels = [k for k, count in enumerate(counts.values(), 1) for _ in range(count)]
    boxes = [[i, i, i + 5, i + 5] for i in range(len(labels))]
    return Annotations.from_arrays(["a.jpg"], [boxes], [labels], list(counts), sizes=[(90, 90)], name=name)


def found(issues):
    return [(issue.kind, issue.object) for issue in issues]


def save(path, mode="RGB", seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return str(path)


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
    assert found(image_issues(ONE, 0, GOOD)) == []
    everything = ImageInfo(60, 40, "L", True, "d", "")
    kinds = [kind for kind, _ in found(image_issues(ONE, 0, everything))]
    assert kinds == ["another size stated", "rotated image", "not RGB"]
    broken = ImageInfo(0, 0, "", False, "", "truncated")
    assert found(image_issues(ONE, 0, broken)) == [("unreadable image", None)]


def test_the_same_pixels_twice():
    splits = {
        "train": [("a", "1"), ("b", "2"), ("c", "1"), ("broken", ""), ("broken too", "")],
        "val": [("d", "3"), ("e", "2")],
    }
    issues = list(duplicate_images(splits))
    assert [(issue.kind, issue.file) for issue in issues] == [
        ("same image twice", "c"),
        ("image in train and val", "e"),
    ]
    assert "a" in issues[0].found
    assert "b" in issues[1].found
    assert list(duplicate_images({})) == []


def test_a_file_in_both_splits_is_in_train_and_val():
    (issue,) = duplicate_images({"train": [("a", "1")], "val": [("a", "1")]})
    assert issue.kind == "image in train and val"


def test_classes_without_objects():
    train = split("train.json", {"cat": 3, "cow": 0, "dog": 0})
    val = split("val.json", {"cat": 1, "cow": 5, "dog": 0, "fox": 2})
    assert class_counts(train) == {"cat": 3, "cow": 0, "dog": 0}
    issues = list(class_issues({"train": train, "val": val}))
    assert [(issue.kind, issue.file, issue.found.split(":")[0]) for issue in issues] == [
        ("class in one set alone", "train.json", "cow"),
        ("class without objects", "train.json", "dog"),
        ("class in one set alone", "train.json", "fox"),
    ]


def test_names_that_differ_in_case_or_blanks_are_named():
    (issue,) = class_issues({"train": split("t", {"Stop sign": 1, "car": 1, "stop_sign": 1})})
    assert (issue.kind, issue.found) == ("class names alike", "'Stop sign' and 'stop_sign'")


def test_ids_that_differ_between_the_splits_are_named():
    splits = {"train": split("t", {"cat": 1, "dog": 1}), "val": split("v", {"dog": 1, "cat": 1})}
    (issue,) = class_issues(splits)
    assert (issue.kind, issue.file) == ("classes in another order", "v")
    assert "dog has 2 and 1" in issue.found
