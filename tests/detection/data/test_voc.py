"""VOC folders with the irregularities of real ones."""

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
    ):
        (self.root / "Annotations" / f"{name}.xml").write_text(
            f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>"
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
    assert "1 of 4 names have no image, skipped: b" in caplog.text
    assert "1 of 4 names have no XML, skipped: c" in caplog.text
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
        ("<annotation><object><bndbox/></object></annotation>", "has no <bndbox><xmin>"),
        (f"<annotation><object><bndbox>{BOX.format(1, 2, 3, 'x')}</bndbox></object></annotation>", "not a number"),
        (f"<annotation><object><bndbox>{BOX.format(1, 2, 3, 4)}</bndbox></object></annotation>", "has no <name>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "not allowed"),
    ],
)
def test_invalid_xml_is_reported(tmp_path, xml, message):
    (tmp_path / "bad.xml").write_text(xml)
    with pytest.raises(DataError, match=rf"bad.xml.*{message}"):
        read_xml(tmp_path / "bad.xml")


def test_missing_image_set_and_no_classes(folder):
    folder.add("a")
    with pytest.raises(DataError, match=r"no VOC image set 'val'.*image sets found: VOC/train"):
        read_voc(folder.root, "val")
    with pytest.raises(DataError, match="no classes"):
        read_voc(folder.root, "train")
    folder.add("b", obj("cow"))
    with pytest.raises(DataError, match=r"classes cow, which are not among cat, dog"):
        read_voc(folder.root, "train", ("cat", "dog"))


def test_ground_truth_for_external_detections(folder):
    folder.add("a", obj(), obj("dog", extra="<difficult>1</difficult>"), image=False)
    ground_truth = read_voc_ground_truth(folder.root)
    assert ground_truth["images"][0]["id"] == "a"
    assert ground_truth["annotations"][1]["difficult"] == 1
    assert read_voc_ground_truth(folder.root, "train") == ground_truth


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
