import pytest

from detection.checkpoint.label_maps import class_names


@pytest.mark.parametrize("wanted", ["coco", None])
def test_coco_has_gaps_in_its_ids(wanted):
    classes = class_names(wanted, 80)
    ids = dict(zip(classes.names, classes.category_ids, strict=True))
    assert {name: ids[name] for name in ("person", "bicycle", "stop sign", "dog", "toothbrush")} == {
        "person": 1,
        "bicycle": 2,
        "stop sign": 13,
        "dog": 18,
        "toothbrush": 90,
    }
    gaps = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert set(range(1, 91)) - set(classes.category_ids) == gaps
    assert list(classes.category_ids) == sorted(classes.category_ids)


@pytest.mark.parametrize("wanted", ["voc", None])
def test_voc_is_in_order_of_the_alphabet(wanted):
    classes = class_names(wanted, 20)
    assert classes.names[:3] == ("aeroplane", "bicycle", "bird")
    assert classes.names[-1] == "tvmonitor"
    assert list(classes.names) == sorted(classes.names)
    assert classes.category_ids == tuple(range(1, 21))


def test_names_with_commas_count_from_one():
    classes = class_names("cat,hot dog", 2)
    assert (classes.names, classes.category_ids) == (("cat", "hot dog"), (1, 2))


@pytest.mark.parametrize(
    ("wanted", "count"), [("coco", 20), ("voc", 80), ("cat", 2), ("cat,dog,cow", 2), ("cat,cat", 2)]
)
def test_another_number_of_names_is_refused(wanted, count):
    with pytest.raises(ValueError, match=f"{count} classes"):
        class_names(wanted, count)


def test_names_are_not_guessed_for_other_numbers():
    with pytest.raises(ValueError, match="--classes"):
        class_names(None, 7)
