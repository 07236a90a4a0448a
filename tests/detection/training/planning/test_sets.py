import pytest

from detection.training.planning.sets import find_sets, name_sets


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["train", "val", "test"], ("train", "val")),
        (["test", "train"], ("train", "test")),
        (["train", "valid", "test"], ("train", "valid")),
        (["VOC2012/trainval"], ("VOC2012/trainval", None)),
        (["train", "trainval", "val"], ("train", "val")),
        (["annotations/instances_train2017.json", "annotations/instances_val2017.json"],) * 1
        + (("annotations/instances_train2017.json", "annotations/instances_val2017.json"),),
        (["train/_annotations.coco.json", "valid/_annotations.coco.json"],) * 1
        + (("train/_annotations.coco.json", "valid/_annotations.coco.json"),),
        (["kangaroos"], ("kangaroos", None)),
        (["kangaroos", "val"], ("kangaroos", "val")),
        (["."], (".", None)),
    ],
)
def test_names(names, wanted):
    assert name_sets(names) == wanted


@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_unclear_names_are_refused(names):
    with pytest.raises(ValueError, match=r"data\.train=NAME"):
        name_sets(names)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


def test_voc_lists_without_those_of_classes(tmp_path):
    for name in ("train", "val", "cat_train", "cat_val", "._train"):
        touch(tmp_path / "ImageSets" / "Main" / f"{name}.txt")
    assert find_sets(tmp_path)[:2] == ("voc", ["train", "val"])
    touch(tmp_path / "devkit" / "VOC2012" / "ImageSets" / "Main" / "train.txt")
    assert find_sets(tmp_path / "devkit")[:2] == ("voc", ["VOC2012/train"])


def test_xml_beside_images(tmp_path):
    touch(tmp_path / "a" / "train" / "1.xml")
    assert find_sets(tmp_path / "a")[:2] == ("voc", ["train"])
    touch(tmp_path / "b" / "1.xml")
    assert find_sets(tmp_path / "b")[:2] == ("voc", ["."])


def test_coco(tmp_path):
    for name in ("instances_train", "instances_val", "captions_train"):
        touch(tmp_path / "a" / "annotations" / f"{name}.json")
    sets = ["annotations/instances_train.json", "annotations/instances_val.json"]
    assert find_sets(tmp_path / "a")[:2] == ("coco", sets)
    touch(tmp_path / "b" / "train" / "_annotations.coco.json")
    assert find_sets(tmp_path / "b")[:2] == ("coco", ["train/_annotations.coco.json"])
    touch(tmp_path / "c" / "labels.json")
    assert find_sets(tmp_path / "c")[:2] == ("coco", ["labels.json"])


def test_nothing_and_two_formats(tmp_path):
    with pytest.raises(ValueError, match="no data set recognised"):
        find_sets(tmp_path)
    touch(tmp_path / "1.xml")
    touch(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"may be voc .* or coco"):
        find_sets(tmp_path)
