"""Property tests of untrusted annotations and configurations: they are read, or rejected with an error message; no other
exception, no code execution, no network access."""

import contextlib
import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from detection import load_config
from detection.config import Config, DataConfig
from detection.data.annotations import Annotations, DataError, train_objects
from detection.data.coco import read_coco, read_coco_file
from detection.data.voc import read_voc, read_voc_ground_truth, read_xml
from detection.dataset_check.reading import read_split
from detection.dataset_check.report import check

MANY = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
SOME = settings(MANY, max_examples=25)

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


SOUND = {
    "images": [
        {"id": 1, "file_name": "a.png", "height": 40, "width": 50},
        {"id": 2, "file_name": "b.png", "height": 40, "width": 50},
    ],
    "annotations": [
        {"id": i, "image_id": 1 + i % 2, "category_id": 1 + i % 2, "bbox": [i, 2, 20, 10], "area": 200, "iscrowd": 0}
        for i in range(1, 6)
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
odd_values = (
    anything
    | number
    | st.sampled_from(["1", "2", "a.png", "A.PNG", "..\\a.png", [1, 2, 3], [1, 2, 3, 4, 5], [0.1, 0.2, 0.3, 0.4]])
    | st.lists(number, min_size=4, max_size=4)
)


@st.composite
def mutated_trees(draw):
    """Sound annotations in which some values are others, and some keys or entries are missing or twice."""
    tree = json.loads(json.dumps(SOUND))
    for _ in range(draw(st.integers(1, 4))):
        table = tree[draw(st.sampled_from(sorted(SOUND)))]
        if not table:
            continue
        i, action = (
            draw(st.integers(0, len(table) - 1)),
            draw(st.sampled_from(["value", "value", "key", "entry", "twice"])),
        )
        if action == "entry":
            del table[i]
        elif action == "twice":
            table.append(table[i])
        elif isinstance(table[i], dict) and table[i]:
            key = draw(st.sampled_from(sorted([*table[i], "difficult", "ignore", "is_crowd"])))
            if action == "key":
                table[i].pop(key, None)
            else:
                table[i] = table[i] | {key: draw(odd_values)}
    return tree


def result(read):
    """Return what a reader gives, or its error."""
    try:
        return read()
    except DataError as error:
        return error


def kept(records):
    """Return the boxes that training keeps, by image."""
    objects = train_objects(records, keep_difficult=False)
    image_of = records.image_of()
    return {
        (records.image_ids[image_of[j]], records.classes[records.labels[j] - 1], tuple(objects.boxes[j].tolist()))
        for j in np.flatnonzero(objects.keep).tolist()
    }


def readers_agree(strict, lenient, ground_truth):
    """Training refuses what the check says it refuses, and evaluation has the same objects."""
    if isinstance(strict, Annotations):
        assert isinstance(lenient, Annotations)
        assert not any(issue.refuses for issue in lenient.issues)
        assert lenient.issues == strict.issues
        assert kept(lenient) == kept(strict)
        assert isinstance(ground_truth, Annotations)
        named = {str(i): boxes for i, boxes in zip(strict.image_ids, boxes_of(strict), strict=True)}
        for image, boxes in zip(ground_truth.image_ids, boxes_of(ground_truth), strict=True):
            assert named.get(str(image), boxes) == boxes  # an image without a file is evaluated all the same
        json.dumps(ground_truth.to_coco())
    else:
        assert isinstance(lenient, DataError) or any(issue.refuses for issue in lenient.issues)


def boxes_of(records):
    return [records.boxes[records.objects(i)].tolist() for i in range(len(records))]


@SOME
@given(content=mutated_trees())
def test_readers_agree_on_mutated_coco_files(coco, content):
    file = coco / "annotations/instances_val.json"
    file.write_text(json.dumps(content))
    strict, lenient = (result(lambda s=s: read_coco(coco, "val", strict=s)) for s in (True, False))
    readers_agree(strict, lenient, result(lambda: read_coco_file(file)))
    if isinstance(lenient, Annotations):
        report = check(Config(data=DataConfig(format="coco", root=str(coco), train="val", val=None)), quick=True)
        kinds = ("degenerate box", "box outside", "repeated box")
        named = {f["object"] for f in report["faults"] if f["kind"] in kinds}
        objects, image_of = train_objects(lenient, keep_difficult=True), lenient.image_of()
        lost = np.flatnonzero(~objects.keep & ~lenient.crowd).tolist()
        assert {lenient.object_name(j, int(image_of[j])) for j in lost} <= named


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


ELEMENTS = {
    "name": st.sampled_from(["cat", "dog", " cat ", ""]),
    "difficult": st.sampled_from(["0", "1", "Unspecified", "true", ""]),
    "bndbox": st.lists(st.sampled_from(["1", "5", "30", "45.5", "60", "nan", "-4", "x", ""]), min_size=3, max_size=5),
}


@st.composite
def mutated_xml(draw):
    """Annotations of an image whose objects have missing, repeated and odd elements."""
    objects = []
    for _ in range(draw(st.integers(0, 3))):
        parts = ["<name>cat</name>", "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax><ymax>20</ymax></bndbox>"]
        for tag in draw(st.lists(st.sampled_from(sorted(ELEMENTS)), max_size=2)):
            value = draw(ELEMENTS[tag])
            if tag == "bndbox":
                value = "".join(
                    f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), value, strict=False)
                )
            element = f"<{tag}>{value}</{tag}>"
            parts = (
                [element if part.startswith(f"<{tag}>") else part for part in parts]
                if draw(st.booleans())
                else [*parts, element]
            )
        objects.append(f"<object>{''.join(parts)}</object>")
    size = draw(
        st.sampled_from(["", "<size><width>0</width><height>0</height></size>", "<size><width>x</width></size>"])
    )
    return f"<annotation><filename>{draw(st.sampled_from(['a.jpg', 'b.jpg', '']))}</filename>{size}{''.join(objects)}</annotation>"


@SOME
@given(content=mutated_xml())
def test_readers_agree_on_mutated_voc_files(voc, content):
    (voc / "Annotations/a.xml").write_text(content)
    strict, lenient = (result(lambda s=s: read_voc(voc, "val", strict=s)) for s in (True, False))
    readers_agree(strict, lenient, result(lambda: read_voc_ground_truth(voc, "val")))
    if isinstance(strict, Annotations):
        report = check(Config(data=DataConfig(format="voc", root=str(voc), train="val", val=None)), quick=True)
        objects = train_objects(strict, keep_difficult=True)
        lost = {strict.object_name(j, 0) for j in np.flatnonzero(~objects.keep).tolist()}
        kinds = ("degenerate box", "box outside", "repeated box")
        assert lost == {fault["object"] for fault in report["faults"] if fault["kind"] in kinds}


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
