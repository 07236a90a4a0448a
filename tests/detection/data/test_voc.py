"""VOC folders with the irregularities of real ones."""

import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import DataError, train_objects
from detection.data.voc import read_voc, read_voc_ground_truth, read_xml, year_folders

BOX = "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>"


def obj(name="cat", box=(11, 21, 30, 40), extra=""):
    return f"<object><name>{name}</name>{extra}<bndbox>{BOX.format(*box)}</bndbox></object>"


class Folder:
    """Builder of a VOC folder."""

    def __init__(self, root):
        self.root = root
        for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / part).mkdir(parents=True)

    def add(
        self,
        name,
        *objects,
        size="<size><width>100</width><height>80</height></size>",
        suffix=".jpg",
        split="train",
        image=True,
        plain=False,
    ):
        (self.root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name if plain else name + suffix}</filename>{size}{''.join(objects)}</annotation>"
        )
        if image:
            Image.new("RGB", (100, 80)).save(self.root / "JPEGImages" / f"{name}{suffix}")
        with (self.root / "ImageSets/Main" / f"{split}.txt").open("a") as file:
            file.write(f"{name}\n")
        return self


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "VOC")


def test_corners_labels_and_difficult(folder):
    folder.add("a", obj(), obj("dog", (1, 1, 100, 80), "<difficult>1</difficult>"))
    records = read_voc(folder.root, "train")
    assert records.classes == ("cat", "dog")
    assert records.boxes.tolist() == [[10, 20, 30, 40], [0, 0, 100, 80]]
    assert records.labels.tolist() == [1, 2]
    assert records.difficult.tolist() == [False, True]
    assert records.areas.tolist() == [400, 8000]
    assert records.image_ids == ["a"]
    assert train_objects(records, keep_difficult=False).dropped == {"difficult": 1}
    assert train_objects(records, keep_difficult=True).dropped == {}


def test_tags_in_any_order_and_optional_tags(folder):
    folder.add(
        "a",
        "<object><bndbox><xmin>11</xmin><xmax>30</xmax><ymin>21</ymin><ymax>40</ymax></bndbox><name> cat </name></object>",
    )
    records = read_voc(folder.root, "train")
    assert records.boxes.tolist() == [[10, 20, 30, 40]]
    assert records.classes == ("cat",)


@pytest.mark.parametrize(
    "size", ["<size><width>0</width><height>0</height></size>", "<size><width>9</width><height>9</height></size>", ""]
)
def test_size_is_read_from_the_image(folder, size):
    folder.add("a", obj(), size=size)
    assert read_voc(folder.root, "train").sizes.tolist() == [[80, 100]]


def test_boxes_are_clipped_and_degenerate_ones_counted(folder):
    folder.add(
        "a",
        obj(box=(-5, -5, 200, 90)),
        obj(box=(200, 10, 220, 20)),
        obj(box=(31, 10, 30, 20)),
        obj(box=(30, 10, 30, 20)),
        obj(box=(11, 21, 30, 40)),
    )
    records = read_voc(folder.root, "train")
    objects = train_objects(records, keep_difficult=False)
    assert objects.boxes[objects.keep].tolist() == [[0, 0, 100, 80], [10, 20, 30, 40]]
    assert objects.dropped == {"degenerate": 3}
    assert objects.clipped == 1


def test_duplicate_boxes_are_dropped(folder):
    folder.add("a", obj(), obj(), obj("dog"))
    assert train_objects(read_voc(folder.root, "train"), keep_difficult=False).dropped == {"duplicate": 1}


def test_png_and_a_wrong_filename_tag(folder):
    folder.add("a", obj(), suffix=".png")
    assert read_voc(folder.root, "train").files[0].endswith("a.png")


def test_png_named_jpg(folder):
    folder.add("a", obj(), image=False)
    Image.new("P", (100, 80)).save(folder.root / "JPEGImages/a.png")
    (folder.root / "JPEGImages/a.png").rename(folder.root / "JPEGImages/a.jpg")
    assert read_voc(folder.root, "train").sizes.tolist() == [[80, 100]]


def test_missing_and_unreadable_files_are_reported(folder, caplog):
    folder.add("a", obj()).add("b", obj(), image=False).add("c", obj()).add("d", obj())
    (folder.root / "Annotations/c.xml").unlink()
    (folder.root / "JPEGImages/d.jpg").write_text("not an image")
    assert read_voc(folder.root, "train").image_ids == ["a"]
    assert "1 × missing image (skipped)" in caplog.text
    assert "1 × missing annotations (the image is skipped)" in caplog.text
    assert "missing image, b" in caplog.text
    assert "c.xml" in caplog.text
    assert "d.jpg cannot be read as an image" in caplog.text


def test_images_without_objects_are_kept(folder):
    folder.add("a").add("b", obj())
    records = read_voc(folder.root, "train")
    assert records.offsets.tolist() == [0, 0, 1]


def test_years_are_joined(tmp_path):
    Folder(tmp_path / "VOC2007").add("a", obj(), split="trainval").add("t", obj("dog"), split="test")
    Folder(tmp_path / "VOC2012").add("b", obj("bird"), split="trainval")
    assert [y.name for y in year_folders(tmp_path)] == ["VOC2007", "VOC2012"]
    joined = read_voc(tmp_path, "VOC2007/trainval+VOC2012/trainval")
    assert joined.image_ids == ["a", "b"]
    assert joined.classes == ("bird", "cat")
    assert read_voc(tmp_path, "trainval").image_ids == ["a", "b"]
    assert read_voc(tmp_path, "2007/test").image_ids == ["t"]


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation><object>", "not valid XML"),
        ("<annotation><object><name>a</name><bndbox/></object></annotation>", "no <bndbox><xmin>"),
        (
            f"<annotation><object><name>a</name><bndbox>{BOX.format(1, 2, 3, 'x')}</bndbox></object></annotation>",
            "<ymax> 'x' is not a number",
        ),
        (f"<annotation><object><bndbox>{BOX.format(1, 2, 3, 4)}</bndbox></object></annotation>", "no <name>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "not allowed"),
    ],
)
def test_invalid_xml_is_reported(tmp_path, xml, message):
    (tmp_path / "bad.xml").write_text(xml)
    (issue,) = read_xml(tmp_path / "bad.xml").issues
    assert re.search(rf"bad\.xml.*broken annotations, .*{message}", str(issue))
    assert issue.refuses


def test_missing_image_set_and_no_classes(folder):
    folder.add("a")
    with pytest.raises(DataError, match=r"no VOC image set 'val'.*image sets found: VOC/train"):
        read_voc(folder.root, "val")
    assert read_voc(folder.root, "train").classes == ()
    folder.add("b", obj("cow"))
    with pytest.raises(DataError, match="objects of cow, which are not among the classes cat, dog"):
        read_voc(folder.root, "train", ("cat", "dog"))


def test_ground_truth_for_external_detections(folder):
    folder.add("a", obj(), obj("dog", extra="<difficult>1</difficult>"), image=False)
    ground_truth = read_voc_ground_truth(folder.root).to_coco()
    assert ground_truth["images"][0]["id"] == "a"
    assert ground_truth["annotations"][1]["difficult"] == 1
    assert read_voc_ground_truth(folder.root, "train").to_coco() == ground_truth


def test_ground_truth_wants_xml_files(tmp_path):
    with pytest.raises(DataError, match="no VOC annotations found"):
        read_voc_ground_truth(tmp_path)
    Folder(tmp_path / "VOC2007").add("a", obj(), image=False)
    Folder(tmp_path / "VOC2012").add("a", obj(), image=False)
    with pytest.raises(DataError, match="repeated name, a"):
        read_voc_ground_truth(tmp_path)
    (tmp_path / "VOC2007/Annotations/a.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match=r"a\.xml: broken annotations, not valid XML"):
        read_voc_ground_truth(tmp_path / "VOC2007")


def kinds(records):
    return Counter(issue.kind for issue in records.issues)


@pytest.mark.parametrize(
    ("text", "difficult"),
    [("1", True), ("true", True), ("0", False), ("Unspecified", False), ("2", False), ("", False)],
)
def test_only_1_is_difficult(folder, text, difficult):
    folder.add("a", obj(extra=f"<difficult>{text}</difficult>"))
    records = read_voc(folder.root, "train")
    assert records.difficult.tolist() == [difficult]
    assert kinds(records) == ({"difficult unclear": 1} if text in ("Unspecified", "2") else {})


def test_every_box_of_an_object_is_one(folder):
    box = f"<bndbox>{BOX.format(1, 1, 9, 9)}</bndbox>"
    folder.add("a", obj(extra=box), obj("dog"))
    records = read_voc(folder.root, "train")
    assert records.boxes.tolist() == [[0, 0, 9, 9], [10, 20, 30, 40], [10, 20, 30, 40]]
    assert [records.object_name(j, 0) for j in range(3)] == ["1", "1", "2"]
    assert kinds(records) == {"several boxes in an object": 1}


def test_a_rotated_box_is_named(folder):
    folder.add("a", obj(), "<object><name>cat</name><robndbox><cx>1</cx></robndbox></object>")
    with pytest.raises(DataError, match=r"a\.xml, object 2: broken annotations, a rotated box"):
        read_voc(folder.root, "train")


def test_a_box_that_is_not_finite_is_dropped_everywhere(folder, caplog):
    folder.add("a", obj(), obj(box=(1, 2, "nan", 9)), obj(box=(1, 2, "1e400", 9)))
    for records in (read_voc(folder.root, "train"), read_voc_ground_truth(folder.root)):
        assert records.boxes.tolist() == [[10, 20, 30, 40]]
        assert kinds(records) == {"non-finite box": 2}
    assert "object 2: non-finite box" in caplog.text


def test_the_filename_decides_between_images_of_one_name(folder):
    folder.add("a", obj(), plain=True)
    Image.new("L", (9, 9)).save(folder.root / "JPEGImages/a.png")  # a mask
    with pytest.raises(DataError, match=r"several images of one name, a\.jpg, a\.png; <filename> is 'a'"):
        read_voc(folder.root, "train")
    xml = (folder.root / "Annotations/a.xml").read_text()
    for name in ("a.jpg", "images/a.jpg"):
        (folder.root / "Annotations/a.xml").write_text(xml.replace("<filename>a<", f"<filename>{name}<"))
        records = read_voc(folder.root, "train")
        assert records.files[0].endswith("a.jpg")
        assert records.sizes.tolist() == [[80, 100]]


def test_names_may_have_folders_and_dots(folder):
    for part in ("Annotations", "JPEGImages"):
        (folder.root / part / "cam1/day").mkdir(parents=True)
    folder.add("cam1/day/a", obj()).add("frame.0001", obj("dog")).add("frame.0002", obj("dog"))
    with (folder.root / "ImageSets/Main/train.txt").open("a") as file:
        file.write("frame.0003\n")  # is not "frame"
    records = read_voc(folder.root, "train")
    assert records.image_ids == ["cam1/day/a", "frame.0001", "frame.0002"]
    assert kinds(records) == {"missing image": 1, "missing annotations": 1}


def test_macos_files_are_ignored(folder):
    folder.add("a", obj())
    for name in ("JPEGImages/._a.jpg", "Annotations/._a.xml", "ImageSets/Main/._val.txt"):
        (folder.root / name).write_bytes(b"\0\5\26\7")
    records = read_voc(folder.root, "train")
    assert (records.image_ids, len(read_voc_ground_truth(folder.root))) == (["a"], 1)
    with pytest.raises(DataError, match=r"image sets found: VOC/train$"):
        read_voc(folder.root, "val")


def test_images_beside_their_xml(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("a", "b.c"):
        Image.new("RGB", (100, 80)).save(tmp_path / "train" / f"{name}.jpg")
        (tmp_path / "train" / f"{name}.xml").write_text(f"<annotation>{obj()}</annotation>")
    Image.new("RGB", (100, 80)).save(tmp_path / "train/none.jpg")
    records = read_voc(tmp_path, "train")
    assert (records.image_ids, kinds(records)) == (["a", "b.c"], {"missing annotations": 1})
    with pytest.raises(DataError, match=r"no VOC image set 'val'.*image sets found: train"):
        read_voc(tmp_path, "val")
    with pytest.raises(DataError):
        read_voc(tmp_path / "train", "../train")


def test_a_dangling_link_and_another_unicode_form_are_missing_images(folder):
    folder.add("a", obj()).add("b", obj(), image=False)
    (folder.root / "JPEGImages/b.jpg").symlink_to("/none.jpg")
    folder.add("\u00e9", obj(), image=False)
    Image.new("RGB", (100, 80)).save(folder.root / "JPEGImages/e\u0301.jpg")
    records = read_voc(folder.root, "train")
    assert (records.image_ids, kinds(records)) == (["a"], {"missing image": 2})
    assert "another Unicode form" in records.issues[0].found
    assert records.issues[1].found.endswith("b.jpg")


@pytest.mark.data
def test_real_folders(shared):
    counts = {"train": 205, "val": 87, "test": 72}
    sets = {split: read_voc(shared / "data/bccd", split) for split in counts}
    assert {split: len(r) for split, r in sets.items()} == counts
    assert sum(len(r.labels) for r in sets.values()) == 4888
    assert all(r.classes == ("Platelets", "RBC", "WBC") for r in sets.values())
    assert sum(train_objects(r, False).dropped.get("degenerate", 0) for r in sets.values()) == 2
    voc = [read_voc(shared / "data/voc100", split) for split in ("train", "val")]
    assert [len(r) for r in voc] == [70, 30]
    assert sum(len(r.labels) for r in voc) == 273
    assert sum(int(r.difficult.sum()) for r in voc) == 38


@pytest.mark.data
def test_boxes_at_the_image_border_are_unchanged(shared):
    records = [read_voc(shared / "data/bccd", split) for split in ("train", "val", "test")]
    boxes = np.concatenate([r.boxes for r in records])
    assert (boxes[:, 3] == 480).sum() == 318
    assert (boxes[:, 2] == 640).sum() == 237


LAYOUTS = {
    "folders beside each other": (".", "Annotations/a.xml", "images/a.jpg"),
    "lower case": (".", "annotations/a.xml", "pictures/a.jpg"),
    "images in the root": (".", "Annotations/a.xml", "a.jpg"),
    "a split's folders": ("train", "train/annotations/a.xml", "train/images/a.jpg"),
    "folders with splits": ("train", "annotations/train/a.xml", "images/train/a.jpg"),
    "beside each other": ("train", "train/a.xml", "train/a.jpg"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_folders_without_image_sets(tmp_path, name):
    split, xml, image = LAYOUTS[name]
    for file in (xml, image):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    (tmp_path / xml).write_text(f"<annotation><object><name>cat</name>{box}</object></annotation>")
    Image.new("RGB", (60, 40)).save(tmp_path / image)
    records = read_voc(tmp_path, split)
    assert (list(records.image_ids), records.boxes.tolist()) == (["a"], [[0, 0, 9, 9]])
    assert records.issues == ()
    with pytest.raises(DataError, match=f"image sets found: {split}"):
        read_voc(tmp_path, "none")


def test_cvats_list_of_classes_gives_their_order(tmp_path):
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    objects = "".join(f"<object><name>{n}</name>{box}</object>" for n in ("cat", "emu"))
    (tmp_path / "Annotations/a.xml").write_text(f"<annotation>{objects}</annotation>")
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "ImageSets/Main/default.txt").write_text("a\n")
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\nzoo:1,1,1::\ncat:::\n")
    records = read_voc(tmp_path, "default")
    assert records.classes == ("zoo", "cat", "emu")
    assert records.labels.tolist() == [2, 3]
    assert records.category_ids == (1, 2, 3)
