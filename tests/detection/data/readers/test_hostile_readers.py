"""Property tests of the readers on mutated files: no other error than DataError, and the check, training and evaluation agree
on what is kept."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detection.config import Config, DataConfig
from detection.data.annotations import Annotations, DataError, train_objects
from detection.data.formats import get_format
from detection.data.opening import open_source
from detection.dataset_check import report

SOME = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
BOX_KINDS = ("degenerate box", "box outside", "repeated box")

value = st.sampled_from(
    ["0.5", "0.2", "1", "0", "-0.1", "1.5", "30", "nan", "inf", "1e400", "x", "", "1_0", "٣", "0x1"]
)
text = st.text(max_size=6)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for part in ("images/val", "labels/val", "labelme"):
        (folder / part).mkdir(parents=True)
    for path in ("images/val/a.jpg", "images/val/b.jpg", "labelme/a.jpg"):
        Image.new("RGB", (50, 40)).save(folder / path)
    (folder / "labels/val/b.txt").write_text("0 .5 .5 .2 .2\n")
    (folder / "class-descriptions-boxable.csv").write_text("/m/01,Cat\n")
    return folder


@pytest.fixture(autouse=True, scope="module")
def _without_anchors():
    """The check's anchor statistics build a whole network each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "_anchor_coverage", lambda *_: ({}, []))
        yield


def result(read):
    try:
        return read()
    except DataError as error:
        return error


def kept(records):
    objects, image_of = train_objects(records, keep_difficult=False), records.image_of()
    return [
        (records.image_ids[image_of[j]], records.classes[records.labels[j] - 1], tuple(objects.boxes[j].tolist()))
        for j in np.flatnonzero(objects.keep).tolist()
    ]


def readers_agree(root, format, split="val"):
    """Training refuses what the check says it refuses; else both and the evaluation have the same objects."""
    config = DataConfig(format=format, root=str(root), train=split, val=None)
    strict, lenient = (
        result(lambda: get_format(format).read(root, split)),
        result(lambda: get_format(format).check(root, split)),
    )
    if not isinstance(strict, Annotations):
        assert isinstance(lenient, DataError) or any(issue.refuses for issue in lenient.issues)
        return
    assert not any(issue.refuses for issue in lenient.issues)
    assert (lenient.issues, kept(lenient)) == (strict.issues, kept(strict))
    assert np.isfinite(strict.boxes).all()
    json.dumps(strict.to_coco())
    source = result(lambda: open_source(config))  # training and evaluation
    if isinstance(source, DataError):
        assert not strict.classes
        return
    assert kept(source.train) == kept(strict)
    faults = report.check(Config(data=config), quick=True)["faults"]
    lost = np.flatnonzero(~train_objects(strict, keep_difficult=True).keep & ~strict.crowd).tolist()
    image_of = strict.image_of()
    names = {strict.object_name(j, int(image_of[j])) for j in lost}
    assert names == {fault["object"] for fault in faults if fault["kind"] in BOX_KINDS}


row = (
    st.lists(value, min_size=3, max_size=9).map(" ".join) | st.lists(value, min_size=5, max_size=5).map(" ".join) | text
)


@SOME
@given(rows=st.lists(row, max_size=4))
def test_yolo_labels(root, rows):
    (root / "data.yaml").write_text("val: images/val\nnames: [cat, dog]\n")
    (root / "labels/val/a.txt").write_text("\n".join(rows), encoding="utf-8", errors="replace")
    readers_agree(root, "yolo")


yaml_value = st.recursive(
    st.sampled_from(["images/val", "../images/val", "none", "", None, 3, True, "cat", "a\0b"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([0, 1, "0", "a", -1]), inner, max_size=3)
    ),
    max_leaves=5,
)


@SOME
@given(
    content=st.dictionaries(
        st.sampled_from(["path", "train", "val", "names", "nc", "kpt_shape", "category_ids"]), yaml_value
    )
)
def test_data_yaml(root, content):
    (root / "labels/val/a.txt").write_text("0 .5 .5 .2 .2\n")
    (root / "data.yaml").write_text(json.dumps(content))
    readers_agree(root, "yolo")


@SOME
@given(content=text | st.sampled_from(["names: [", "a: &a [*a]", "- x", "!!python/object:x {}"]))
def test_any_yaml_text(root, content):
    (root / "data.yaml").write_text(content, encoding="utf-8", errors="replace")
    readers_agree(root, "yolo")


cells = st.lists(
    value | st.sampled_from(["a.jpg", "b.jpg", "../../etc/passwd", "cat", '"', "a\0b"]), min_size=4, max_size=8
)


@SOME
@given(
    rows=st.lists(
        cells.map(",".join) | st.lists(value, min_size=4, max_size=4).map(lambda v: f"a.jpg,{','.join(v)},cat"),
        max_size=4,
    )
)
@pytest.mark.parametrize("header", ["", "filename,width,height,class,xmin,ymin,xmax,ymax\n"])
def test_tables(root, header, rows):
    (root / "val.csv").write_text(header + "\n".join(rows), encoding="utf-8", errors="replace")
    readers_agree(root, "csv")


@SOME
@given(
    rows=st.lists(
        st.lists(value | st.sampled_from(["/m/01", "/m/02"]), min_size=5, max_size=7).map(lambda v: f"a,{','.join(v)}"),
        max_size=4,
    )
)
def test_openimages(root, rows):
    head = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf\n"
    (root / "val-annotations-bbox.csv").write_text(head + "\n".join(["b,/m/01,0.1,0.5,0.1,0.5,0", *rows]))
    readers_agree(root, "openimages")


numbers = st.sampled_from([1, 5.5, 30, -3, 60, float("nan"), float("inf"), 10**400, "1", None, True])
points = st.lists(st.lists(numbers, min_size=1, max_size=3), max_size=4) | st.lists(
    st.lists(st.integers(-5, 60), min_size=2, max_size=2), min_size=2, max_size=4
)
shapes = st.fixed_dictionaries(
    {},
    optional={
        "label": st.sampled_from(["cat", "dog", "", 3, None, ["x"], "\ud800"]),
        "points": points,
        "shape_type": st.sampled_from(["rectangle", "polygon", "circle", "point", "x", None, 3, [], {}]),
    },
)


@SOME
@given(
    content=st.fixed_dictionaries(
        {},
        optional={
            "shapes": st.lists(shapes | st.none(), max_size=4),
            "imagePath": st.sampled_from(["a.jpg", "", 3, "a\0", "../../x"]),
            "imageHeight": numbers,
            "imageWidth": numbers,
        },
    )
    | st.none()
)
def test_labelme(root, content):
    (root / "labelme/a.json").write_text(json.dumps(content))
    readers_agree(root, "labelme", "labelme")
