import numpy as np
import pytest
from PIL import Image

from detection.data.annotations import DataError
from detection.data.readers import openimages
from detection.data.readers.openimages import read_openimages

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)
ROWS = "00a,xclick,/m/01,1,0.1,0.5,0.2,0.6,0,0,0,0,0\n00a,xclick,/m/02,1,0,1,0,1,0,0,1,0,0\n00b,xclick,/m/01,1,0.25,0.75,0.5,1,0,0,-1,0,0\n"


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def write(
    root, rows=ROWS, table="train-annotations-bbox.csv", folder="train", names="/m/01,Cat\n/m/02,Ant\n/m/03,Bee\n"
):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("00a", "00b"):
        Image.new("RGB", (200, 100)).save(root / folder / f"{name}.jpg")
    (root / table).parent.mkdir(parents=True, exist_ok=True)
    (root / table).write_text(HEADER + rows)
    if names:
        (root / "class-descriptions-boxable.csv").write_text(names)
    return root


@pytest.mark.parametrize(
    ("table", "folder"),
    [
        ("train-annotations-bbox.csv", "train"),
        ("oidv6-train-annotations-bbox.csv", "images/train"),
        ("train/labels/detections.csv", "train/data"),
    ],
)
def test_boxes_classes_and_groups(tmp_path, table, folder):
    root = write(tmp_path, table=table, folder=folder)
    records = read_openimages(root, "train")
    assert records.boxes.tolist() == [[20, 20, 100, 60], [0, 0, 200, 100], [50, 50, 150, 100]]
    assert records.classes == ("Ant", "Cat")  # those that occur
    assert records.labels.tolist() == [2, 1, 2]
    assert records.crowd.tolist() == [False, True, False]  # -1 is unknown
    assert np.diff(records.offsets).tolist() == [2, 1]
    assert openimages.recognise(root) == (["train"], f"{table} has OpenImages' columns")


def test_without_descriptions_classes_are_their_labels(tmp_path, caplog):
    assert read_openimages(write(tmp_path, names=""), "train").classes == ("/m/01", "/m/02")
    assert "no class-descriptions-boxable.csv" in caplog.text


def test_two_labels_of_one_name_stay_apart(tmp_path):
    assert read_openimages(write(tmp_path, names="/m/01,Cat\n/m/02,Cat\n"), "train").classes == (
        "Cat (/m/01)",
        "Cat (/m/02)",
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("00a,x,/m/01,1,x,1,0,1,0,0,0,0,0", "XMin 'x' is not a number"),
        ("00a,x,/m/01,1,0", "YMin None is not a number"),
        ("00a,x,,1,0,1,0,1,0,0,0,0,0", "no LabelName"),
        ("../a,x,/m/01,1,0,1,0,1,0,0,0,0,0", "ImageID '../a'"),
    ],
)
def test_broken_rows_name_file_and_line(tmp_path, row, words):
    root = write(tmp_path, f"{ROWS}{row}\n")
    with pytest.raises(DataError, match=rf"bbox\.csv, line 5: broken annotations, {words}"):
        read_openimages(root, "train")
    assert len(read_openimages(root, "train", strict=False).labels) == 3


def test_missing_images_tables_and_columns(tmp_path):
    root = write(tmp_path, f"{ROWS}00c,x,/m/01,1,0,1,0,1,0,0,0,0,0\n")
    assert [i.kind for i in read_openimages(root, "train").issues] == ["missing image"]
    with pytest.raises(DataError, match=r"no OpenImages table of 'test'.*splits found: train"):
        read_openimages(root, "test")
    (root / "val.csv").write_text("ImageID,XMin\n")
    with pytest.raises(DataError, match="no column LabelName"):
        read_openimages(root, "val")
    (root / "val.csv").write_text(HEADER)
    with pytest.raises(DataError, match="no images"):
        read_openimages(root, "val")
