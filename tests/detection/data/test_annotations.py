import dataclasses
import pickle

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from detection.data.annotations import (
    Annotations,
    DataError,
    Strings,
    box_issues,
    first_few,
    train_objects,
    why_nothing_to_train_on,
)

CLASSES = ("cat", "dog")


def arrays(boxes, labels, **options):
    options = {"sizes": [(40, 60)] * len(boxes)} | options
    return Annotations.from_arrays([f"a/{i}.jpg" for i in range(len(boxes))], boxes, labels, CLASSES, **options)


def test_long_lists_are_cut_in_messages():
    assert first_few([]) == ""
    assert first_few(["a", "b", "c"]) == "a, b, c"
    assert first_few(["a", "b", "c", "d"]) == "a, b, c, …"


def test_strings_are_a_sequence_as_a_list_is():
    items = ["", "a.jpg", "ümläut 日本.png", "", "z" * 300]
    strings = Strings(items)
    assert list(strings) == items
    assert len(strings) == 5
    for index in (0, 4, -1, -5, slice(1, 4), slice(None, None, -2), slice(9, 20)):
        assert strings[index] == items[index]
    for index in (5, -6):
        with pytest.raises(IndexError):
            strings[index]
    assert "a.jpg" in strings
    assert list(pickle.loads(pickle.dumps(strings))) == items
    assert list(Strings([])) == []


def test_objects_are_divided_by_image():
    records = arrays([[[1, 2, 3, 4]], [], [[5, 6, 7, 9], [0, 0, 10, 20]]], [[2], [], [1, 2]])
    assert len(records) == 3
    assert [records.boxes[records.objects(i)].tolist() for i in range(3)] == [
        [[1, 2, 3, 4]],
        [],
        [[5, 6, 7, 9], [0, 0, 10, 20]],
    ]
    assert records.labels.tolist() == [2, 1, 2]
    assert records.areas.tolist() == [4, 6, 200]


def test_sizes_are_read_from_the_files_where_not_given(tmp_path):
    Image.new("RGB", (31, 17)).save(tmp_path / "a.png")
    records = Annotations.from_arrays([tmp_path / "a.png"], [[]], [[]], CLASSES)
    assert records.sizes.tolist() == [[17, 31]]
    with pytest.raises(FileNotFoundError):
        Annotations.from_arrays([tmp_path / "none.png"], [[]], [[]], CLASSES)


def test_no_images_are_an_empty_dataset():
    records = arrays([], [])
    assert len(records) == 0
    assert records.boxes.shape == (0, 4)
    assert records.to_coco()["annotations"] == []
    assert train_objects(records, keep_difficult=False).dropped == {}


@pytest.mark.parametrize(
    ("boxes", "labels", "words"),
    [
        ([[[1, 2, 3]]], [[1]], "0.jpg.*boxes"),
        ([[[1, 2, 3, 4]]], [[1, 2]], "0.jpg.*labels"),
        ([[[1, 2, 3, 4]]], [[0]], r"0.jpg.*1\.\.2"),
        ([[], [[1, 2, 3, 4]]], [[], [3]], r"1.jpg.*1\.\.2"),
        ([[[1, 2, 3, 4]]], [], "boxes of 1 and labels of 0"),
    ],
)
def test_wrong_arrays_are_refused_by_image(boxes, labels, words):
    with pytest.raises(DataError, match=words):
        arrays(boxes, labels)


def test_pycocotools_reads_what_to_coco_gives():
    records = arrays([[[1, 2, 4, 8]], [], [[5, 6, 7, 9]]], [[2], [], [1]])
    records = dataclasses.replace(records, category_ids=(18, 90), image_ids=[10, 4, 7])
    coco = COCO()
    coco.dataset = records.to_coco()
    coco.createIndex()
    (first,) = coco.loadAnns(coco.getAnnIds(imgIds=10))
    assert (first["bbox"], first["area"], first["category_id"]) == ([1, 2, 3, 6], 18, 90)
    assert coco.getAnnIds(imgIds=4) == []
    assert coco.loadCats(18)[0]["name"] == "cat"
    assert coco.loadImgs(7)[0] == {"id": 7, "file_name": "2.jpg", "height": 40, "width": 60}


def test_difficult_objects_are_ignored_as_crowds_are():
    flags = np.array([True, False, False])
    records = arrays([[[1, 1, 5, 5], [2, 2, 6, 6], [3, 3, 7, 7]]], [[1, 1, 1]])
    records = dataclasses.replace(records, difficult=flags, crowd=flags[::-1])
    annotations = records.to_coco()["annotations"]
    assert [(a["iscrowd"], a["difficult"]) for a in annotations] == [(1, 1), (0, 0), (1, 1)]


def test_images_are_selected_with_their_objects():
    records = arrays([[[1, 2, 3, 4]], [[5, 5, 9, 9], [0, 0, 2, 2]], []], [[1], [2, 1], []])
    records = dataclasses.replace(records, object_names=Strings(["7", "8", "9"]))
    assert records.select(np.array([True, True, True])) is records
    chosen = records.select(np.array([False, True, True]))
    assert (list(chosen.files), chosen.image_ids, chosen.offsets.tolist()) == (
        ["a/1.jpg", "a/2.jpg"],
        [2, 3],
        [0, 2, 2],
    )
    assert (chosen.boxes.tolist(), chosen.labels.tolist()) == ([[5, 5, 9, 9], [0, 0, 2, 2]], [2, 1])
    assert [chosen.object_name(j, 0) for j in range(2)] == ["8", "9"]


def test_labels_follow_the_names_of_other_classes():
    records = arrays([[[1, 2, 3, 4], [5, 5, 9, 9]]], [[1, 2]])
    assert records.with_classes(CLASSES) is records
    other = records.with_classes(("ant", "dog", "cat"))
    assert (other.classes, other.category_ids) == (("ant", "dog", "cat"), (3, 2, 1))
    assert other.labels.tolist() == [3, 2]
    assert records.with_classes(("ant", "dog", "cat"), renumber=True).category_ids == (1, 2, 3)
    with pytest.raises(DataError, match="objects of dog, which are not among the classes cat, cow"):
        records.with_classes(("cat", "cow"))


def test_what_is_wrong_with_boxes_is_named_as_training_drops_it():
    boxes = [[5, 5, 5, 9], [60, 5, 70, 9], [-1, 5, 9, 9], [1, 1, 9, 9], [1, 1, 9, 9], [1, 1, 9, float("nan")]]
    records = arrays([[], boxes], [[], [1, 1, 1, 1, 1, 1]])
    issues = [(issue.kind, issue.object) for issue in box_issues(records)]
    assert issues == [
        ("degenerate box", "1"),
        ("degenerate box", "6"),
        ("box outside", "2"),
        ("box across the edge", "3"),
        ("repeated box", "5"),
    ]
    dropped = train_objects(records, keep_difficult=False)
    assert dropped.dropped == {"degenerate": 3, "duplicate": 1}
    assert dropped.clipped == 1


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((0.0, 0, 60, 40), None),
        ((5.0, 9, 9, 5), "degenerate box"),
        ((5.0, 5, float("inf"), 9), "degenerate box"),
        ((5.0, -9, 9, 0), "box outside"),
        ((5.0, 5, 9, 41), "box across the edge"),
    ],
)
def test_box_issues_by_kind(box, kind):
    issues = box_issues(arrays([[box]], [[1]]))
    assert [issue.kind for issue in issues] == ([] if kind is None else [kind])


def test_a_crowd_region_is_no_duplicate_of_an_object():
    records = arrays([[[1, 1, 9, 9], [1, 1, 9, 9]]], [[1, 1]])
    records = dataclasses.replace(records, crowd=np.array([True, False]))
    assert train_objects(records, keep_difficult=False).keep.tolist() == [False, True]


def test_why_nothing_is_left_to_train_on():
    records = arrays([[[1, 1, 9, 9]] * 2], [[1, 2]])
    assert why_nothing_to_train_on(records, train_objects(records, keep_difficult=False)) == ""
    crowd = dataclasses.replace(records, crowd=np.array([True, True]))
    assert why_nothing_to_train_on(crowd, train_objects(crowd, keep_difficult=False)) == "all 2 objects are crowd"
    mixed = dataclasses.replace(crowd, crowd=np.array([True, False]), difficult=np.array([False, True]))
    reason = why_nothing_to_train_on(mixed, train_objects(mixed, keep_difficult=False))
    assert reason == "of its 2 objects, 1 crowd, 1 difficult are dropped"
    none = arrays([[], []], [[], []])
    assert "none of its 2 images" in why_nothing_to_train_on(none, train_objects(none, keep_difficult=False))


def test_a_box_outside_is_clipped():
    objects = train_objects(arrays([[[-5, 10, 70, 30], [1, 1, 5, 5]]], [[1, 1]]), keep_difficult=False)
    assert objects.boxes.tolist() == [[0, 10, 60, 30], [1, 1, 5, 5]]
    assert objects.boxes.dtype == np.float32
    assert objects.keep.tolist() == [True, True]
    assert (objects.clipped, objects.dropped) == (1, {})


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 9], [5, 9, 9, 5], [60, 0, 80, 9], [-9, 0, 0, 9], [1, 1, np.nan, 5], [1, 1, np.inf, 5]]
)
def test_boxes_without_area_in_the_image_are_dropped(box):
    objects = train_objects(arrays([[box, [1, 1, 5, 5]]], [[1, 1]]), keep_difficult=False)
    assert objects.keep.tolist() == [False, True]
    assert objects.dropped == {"degenerate": 1}


def test_duplicates_are_of_one_image_and_class():
    box = [1, 1, 5, 5]
    records = arrays([[box, box, box], [box]], [[1, 2, 1], [1]])
    objects = train_objects(records, keep_difficult=False)
    assert objects.keep.tolist() == [True, True, False, True]
    assert objects.dropped == {"duplicate": 1}


@pytest.mark.parametrize("keep_difficult", [True, False])
def test_crowds_are_dropped_and_difficult_objects_as_asked(keep_difficult):
    records = arrays([[[1, 1, 5, 5], [2, 2, 6, 6], [3, 3, 7, 7], [4, 4, 4, 8]]], [[1, 1, 1, 1]])
    records = dataclasses.replace(
        records, crowd=np.array([True, False, False, True]), difficult=np.array([True, True, False, False])
    )
    objects = train_objects(records, keep_difficult)
    assert objects.keep.tolist() == [False, keep_difficult, True, False]
    # an object is counted once, under the first reason
    assert objects.dropped == {"crowd": 2} | ({} if keep_difficult else {"difficult": 1})
