"""Property tests of untrusted annotations and configurations: they are read, or rejected with an error message; no other
exception, no code execution, no network access."""

import contextlib
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detection import load_config
from detection.config import DataConfig
from detection.data.annotations import Annotations, DataError, train_objects
from detection.data.coco import read_coco
from detection.data.voc import read_voc, read_xml
from detection.dataset_check.reading import read_split

MANY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
number = st.one_of(st.integers(-10, 100), st.floats(), st.integers(), st.text(max_size=3), st.none())


def entries(**keys):
    """Return a strategy for dictionaries that mostly have the expected keys, with expected or arbitrary values."""
    return st.fixed_dictionaries({}, optional=keys) | anything


images = entries(
    id=st.integers(0, 3) | anything,
    file_name=st.sampled_from(["a.png", "../../etc/passwd", "/etc/passwd", "a\0b", ""]) | anything,
    width=number,
    height=number,
)
annotations = entries(
    id=anything,
    image_id=st.integers(0, 3) | anything,
    category_id=st.integers(0, 2) | anything,
    bbox=st.lists(number, min_size=3, max_size=5) | anything,
    area=number,
    iscrowd=anything,
)
categories = entries(id=st.integers(0, 2) | anything, name=anything)
trees = st.fixed_dictionaries(
    {
        "images": st.lists(images, max_size=4),
        "annotations": st.lists(annotations, max_size=5),
        "categories": st.lists(categories, max_size=3),
    }
)


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    (root / "val").mkdir()
    Image.new("RGB", (50, 40)).save(root / "val" / "a.png")
    return root


def reads_or_raises_data_error(read):
    try:
        records = read()
    except DataError:
        return
    if isinstance(records, Annotations):
        objects = train_objects(records, keep_difficult=False)
        boxes = objects.boxes[objects.keep]
        assert (boxes[:, 2:] >= boxes[:, :2]).all()


@MANY
@given(content=trees | anything)
def test_coco_files(coco, content):
    (coco / "annotations/instances_val.json").write_text(json.dumps(content))
    reads_or_raises_data_error(lambda: read_coco(coco, "val"))
    reads_or_raises_data_error(
        lambda: read_split(DataConfig(format="coco", root=str(coco), train="val", val=None), "val")
    )


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' * 3000, "", "\xff", "[1,", "1e999", "NaN"])
def test_files_that_are_not_coco(coco, text):
    (coco / "annotations/instances_val.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError):
        read_coco(coco, "val")
    with pytest.raises(DataError):
        read_split(DataConfig(format="coco", root=str(coco), train="val", val=None), "val")


TAGS = (
    "annotation",
    "object",
    "name",
    "bndbox",
    "xmin",
    "ymin",
    "xmax",
    "ymax",
    "difficult",
    "filename",
    "size",
    "width",
)
xml = st.recursive(
    st.sampled_from(["", "1", "5", "30", "cat", "nan", "1e400", "-3", "inf", "<", "&lt;", "\x00"])
    | st.text(max_size=5),
    lambda inner: st.lists(st.tuples(st.sampled_from(TAGS), inner), min_size=1, max_size=6).map(
        lambda parts: "".join(f"<{tag}>{text}</{tag}>" for tag, text in parts)
    ),
    max_leaves=14,
)
corner = st.sampled_from(["5", "30", "5.5", "nan", "inf", "1e400", "-9", "", " ", "x"])
objects = st.tuples(corner, corner, corner, corner, st.sampled_from(["cat", "", " ", "a b", "ä"])).map(
    lambda v: (
        f"<annotation><object><name>{v[4]}</name><bndbox><xmin>{v[0]}</xmin><ymin>{v[1]}</ymin><xmax>{v[2]}</xmax>"
        f"<ymax>{v[3]}</ymax></bndbox></object></annotation>"
    )
)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    Image.new("RGB", (50, 40)).save(root / "JPEGImages" / "a.jpg")
    (root / "ImageSets/Main/val.txt").write_text("a\n")
    return root


@MANY
@given(content=xml | objects | st.text())
def test_voc_files(voc, content):
    (voc / "Annotations/a.xml").write_text(content, encoding="utf-8", errors="replace")
    reads_or_raises_data_error(lambda: read_voc(voc, "val"))
    reads_or_raises_data_error(
        lambda: read_split(DataConfig(format="voc", root=str(voc), train="val", val=None), "val")
    )


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE a [<!ENTITY x "boom"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>',  # exponential expansion
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://localhost:9/a.dtd">',
    ],
)
def test_xml_entities_are_rejected(tmp_path, head):
    file = tmp_path / "a.xml"
    file.write_text(f"{head}<annotation><object><name>&x;</name></object></annotation>")
    content = read_xml(file)
    assert content.objects == []
    assert re.search(r"a\.xml: broken annotations, not valid XML, or not allowed", str(content.issues[0]))


@pytest.mark.parametrize("names", ["../../secret", "/etc/passwd", "a\0b", "..", "a/../../../b"])
def test_image_sets_cannot_escape_the_folder(voc, names):
    (voc / "ImageSets/Main/odd.txt").write_text(f"a\n{names}\n")
    (voc / "Annotations/a.xml").write_text(
        "<annotation><object><name>c</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
        "</object></annotation>"
    )
    assert list(read_voc(voc, "odd").image_ids) == ["a"]


keys = st.sampled_from(
    [
        "model",
        "data",
        "solver",
        "seed",
        "_base_",
        "model.rpn",
        "rpn",
        "base_lr",
        "max_iter",
        "steps",
        "short_side",
        "format",
    ]
)
lines = st.recursive(
    anything,
    lambda inner: st.dictionaries(keys | st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@MANY
@given(content=lines)
def test_configurations(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    file.write_text(json.dumps(content))
    with contextlib.suppress(ValueError, FileNotFoundError):
        load_config(file)


@MANY
@given(text=st.text(max_size=60))
def test_configurations_of_any_text(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    file.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(ValueError, FileNotFoundError):
        load_config(file)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "model: !!python/name:os.system",
        "solver: &a [*a]",
        "seed: " + "[" * 5000,
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nseed: *c",
        "_base_: config.yaml",
        "_base_: ../../../../etc/passwd",
    ],
)
def test_malicious_configurations_are_rejected(tmp_path, text):
    marker = tmp_path / "ran"
    file = tmp_path / "config.yaml"
    file.write_text(text.replace("{}", str(marker)))
    with pytest.raises((ValueError, FileNotFoundError)):
        load_config(file)
    assert not marker.exists()
