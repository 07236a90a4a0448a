import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import DataError, train_objects
from detection.data.readers import tables
from detection.data.readers.tables import read_csv


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def write(root, text, name="train.csv", images=("a.jpg", "b.jpg"), folder="images"):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for image in images:
        Image.new("RGB", (200, 100)).save(root / folder / image)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return root


TENSORFLOW = (
    "filename,width,height,class,xmin,ymin,xmax,ymax\nb.jpg,200,100,dog,10,20,30.5,40\na.jpg,200,100,cat,1,2,3,4\n"
)
FORMS = {
    "retinanet": "b.jpg,10,20,30.5,40,dog\na.jpg,1,2,3,4,cat\n",
    "with its header": "image_path,x1,y1,x2,y2,class_name\nb.jpg,10,20,30.5,40,dog\na.jpg,1,2,3,4,cat\n",
    "tensorflow": TENSORFLOW,
    "semicolons": "b.jpg;10;20;30.5;40;dog\na.jpg;1;2;3;4;cat\n",
    "byte order mark": f"\ufeff{TENSORFLOW}",
    "normalised": "b.jpg,0.05,0.2,0.1525,0.4,dog\na.jpg,0.005,0.02,0.015,0.04,cat\n",
    "an empty image first": "c.jpg,,,,,\nb.jpg,10,20,30.5,40,dog\na.jpg,1,2,3,4,cat\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path, form, caplog):
    caplog.set_level("INFO")
    root = write(tmp_path, FORMS[form], images=("a.jpg", "b.jpg", "c.jpg"))
    records = read_csv(root, "train")
    assert [i for i in records.image_ids if i != "c"] == ["b", "a"]  # in the table's order
    assert records.classes == ("cat", "dog")
    assert records.boxes.tolist() == [[10, 20, 30.5, 40], [1, 2, 3, 4]]
    assert records.labels.tolist() == [2, 1]
    assert ("multiplied by the image's size" in caplog.text) == (form == "normalised")
    assert [i.kind for i in records.issues] == (["relative boxes"] if form == "normalised" else [])
    assert tables.recognise(root) == (["train"], "train.csv has columns of boxes")


def test_images_without_objects_are_kept(tmp_path):
    records = read_csv(write(tmp_path, "a.jpg,1,2,3,4,cat\nb.jpg,,,,,\n"), "train")
    assert np.diff(records.offsets).tolist() == [1, 0]
    assert records.classes == ("cat",)


def test_roboflows_folders(tmp_path):
    for split in ("train", "valid"):
        write(tmp_path, TENSORFLOW, name=f"{split}/_annotations.csv", folder=split)
    assert len(read_csv(tmp_path, "valid")) == 2
    assert "valid/b.jpg" in read_csv(tmp_path, "valid").files[0]
    assert tables.recognise(tmp_path)[0] == ["train", "valid"]


def test_class_files_give_the_order(tmp_path):
    root = write(tmp_path, FORMS["retinanet"])
    (root / "classes.csv").write_text("emu,2\ndog,0\ncat,1\n")
    records = read_csv(root, "train")
    assert (records.classes, records.labels.tolist()) == (("dog", "cat", "emu"), [1, 2])
    (root / "classes.csv").write_text("class,id\ndog,0\n")
    with pytest.raises(DataError, match=r"train\.csv, line 2: unknown class, 'cat', the classes are dog"):
        read_csv(root, "train")
    for text, words in (("dog\n", "expected class,id"), ("dog,0\ndog,1\n", "repeated class, dog")):
        (root / "classes.csv").write_text(text)
        with pytest.raises(DataError, match=words):
            read_csv(root, "train")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.jpg,1,2,x,4,cat", "'x' is not a number"),
        ("a.jpg,1,2,3", "'' is not a number"),
        ("a.jpg,1,2,3,4,", "no class"),
        (",1,2,3,4,cat", "no file"),
    ],
)
def test_broken_rows_name_file_and_line(tmp_path, row, words):
    root = write(tmp_path, f"b.jpg,10,20,30,40,dog\n\n{row}\n")
    with pytest.raises(DataError, match=rf"train\.csv, line 3: broken annotations.*{words}"):
        read_csv(root, "train")
    assert len(read_csv(root, "train", strict=False).labels) == 1


def test_boxes_that_training_drops(tmp_path):
    rows = "a.jpg,1,2,1,4,cat\na.jpg,300,2,310,4,cat\na.jpg,nan,2,3,4,cat\nb.jpg,1,2,3,4,cat\nb.jpg,1,2,3,4,cat\n"
    records = read_csv(write(tmp_path, rows), "train")
    assert [i.kind for i in records.issues] == ["non-finite box"]
    assert train_objects(records, keep_difficult=False).dropped == {"degenerate": 2, "duplicate": 1}


def test_images_that_are_missing_or_of_another_size(tmp_path):
    text = "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,100,200,cat,1,2,3,4\nB.jpg,200,100,cat,1,2,3,4\n"
    found = {i.kind: i.found for i in read_csv(write(tmp_path, text), "train").issues}
    assert found["another size stated"] == "a.jpg 200x100, the image is 100x200"
    assert "B.jpg (there is b.jpg)" in found["missing image"]
    with pytest.raises(DataError, match="none of its images"):
        read_csv(write(tmp_path / "x", text, images=()), "train")


def test_what_is_no_table(tmp_path):
    root = write(tmp_path, "hello,world\n1,2\n")
    with pytest.raises(DataError, match=r"train\.csv, line 1: 'hello,world': expected file,x1,y1,x2,y2,class"):
        read_csv(root, "train")
    with pytest.raises(DataError, match=r"no table of 'val'.*tables found: none"):
        read_csv(root, "val")
    assert tables.recognise(root) is None
    (root / "train.csv").write_text("")
    with pytest.raises(DataError, match="no images"):
        read_csv(root, "train")
