import numpy as np
import pytest

from detection.data.annotations import Annotations, DataError
from detection.data_tools.subset import parse_size, subset


@pytest.fixture
def records():
    boxes = [[[0, 0, 10, 10], [0, 0, 50, 50]], [], [[0, 0, 200, 200]], [[1, 1, 5, 5], [2, 2, 40, 60]]]
    labels = [[1, 2], [], [3], [1, 1]]
    return Annotations.from_arrays(
        [f"/d/{n}.jpg" for n in "abcd"], boxes, labels, ("cat", "dog", "emu"), sizes=[(300, 300)] * 4
    )


def names(records):
    return [file[3] for file in records.files]


def test_by_class(records):
    part = subset(records, classes=["emu", "cat"])
    assert names(part) == ["a", "c", "d"]  # b had none, and is not about these classes
    assert part.classes == ("emu", "cat")
    assert part.category_ids == (3, 1)
    assert part.labels.tolist() == [2, 1, 2, 2]
    assert part.offsets.tolist() == [0, 1, 2, 4]
    assert names(subset(records, classes=["dog"], keep_empty=True)) == ["a", "b", "c", "d"]


def test_by_size(records):
    assert subset(records, size=parse_size("small")).areas.tolist() == [100, 16]
    assert subset(records, size=parse_size("medium")).areas.tolist() == [2500, 38 * 58]
    assert names(subset(records, size=parse_size("large"))) == ["c"]
    assert subset(records, size=parse_size("45:")).areas.tolist() == [2500, 40000, 38 * 58]


def test_by_file_and_number(records):
    assert names(subset(records, files=["d.jpg", "b"])) == ["b", "d"]
    part = subset(records, images=2, seed=1)
    assert len(part) == 2
    assert names(part) == sorted(names(part))
    assert names(subset(records, images=2, seed=1)) == names(part)
    assert len({tuple(names(subset(records, images=2, seed=s))) for s in range(20)}) > 1
    assert names(subset(records)) == ["a", "b", "c", "d"]


def test_object_names_follow(records):
    import dataclasses

    named = dataclasses.replace(records, object_names=["p", "q", "r", "s", "t"])
    part = subset(named, classes=["cat"])
    assert [part.object_name(j, int(part.image_of()[j])) for j in range(3)] == ["p", "s", "t"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["cow"]}, "no class cow; there are cat, dog, emu"),
        ({"files": ["x", "a"]}, r"no image x \(1 of 2 names\)"),
        ({"images": 5}, "5 images asked for, there are 4"),
        ({"images": 0}, "0 images asked for"),
        ({"size": (1e6, 1e7)}, "no image is left"),
    ],
)
def test_what_is_not_there(records, options, words):
    with pytest.raises(DataError, match=words):
        subset(records, **options)


@pytest.mark.parametrize("text", ["tiny", "5", "9:3", "x:3", "-1:3", "nan:3"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="expected small, medium, large"):
        parse_size(text)
    assert np.isinf(parse_size("5:")[1])
