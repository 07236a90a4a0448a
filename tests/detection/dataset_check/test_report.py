"""Folders with one issue of each kind and the reports on them, and the counts of real datasets."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from runs import train

from detection.cli import run
from detection.data import cache

pytestmark = pytest.mark.usefixtures("thin_networks")


@pytest.fixture(autouse=True)
def separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def write_image(path, seed, size=(60, 40), mode="RGB", **options):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **options)


def check_report(tmp_path, *keys, code):
    file = tmp_path / f"report-{len(list(tmp_path.glob('report-*')))}.json"  # none is replaced
    extra = () if any(k.startswith("--workers") for k in keys) else ("--workers", "1")
    assert run("check-dataset", ["--json", str(file), *extra, *keys]) == code
    return json.loads(file.read_text())


def kinds(report):
    return Counter(issue["kind"] for issue in report["faults"])


def box(name, *corners):
    tags = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object><name>{name}</name><bndbox>{tags}</bndbox></object>"


def voc_folder(root):
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    good = box("cat", 5, 5, 30, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = {
        "good": (good, {}),
        "degenerate": (box("cat", 5, 5, 5, 30), {}),
        "outside": (box("cat", 100, 5, 130, 30), {}),
        "edge": (box("cat", 50, 5, 70, 30), {}),
        "twice": (good + good, {}),
        "noname": ("<object><bndbox/></object>", {}),
        "grey": (box("dog", 5, 5, 30, 30), {"mode": "L"}),
        "turned": (good, {"exif": exif}),
        "empty": ("", {}),
    }
    for seed, (name, (objects, options)) in enumerate(content.items()):
        size = "<filename>x.jpg</filename><size><width>0</width><height>0</height></size>" if name == "good" else ""
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
        write_image(root / "JPEGImages" / f"{name}.jpg", seed, **options)
    (root / "Annotations/broken.xml").write_text("<annotation><object>")
    write_image(root / "JPEGImages/broken.jpg", 50)
    (root / "Annotations/cut.xml").write_text(f"<annotation>{good}</annotation>")
    write_image(root / "JPEGImages/cut.jpg", 51)
    data = (root / "JPEGImages/cut.jpg").read_bytes()
    (root / "JPEGImages/cut.jpg").write_bytes(data[: len(data) // 2])
    (root / "Annotations/nopicture.xml").write_text("<annotation/>")
    write_image(root / "JPEGImages/noxml.jpg", 52)
    (root / "Annotations/copy.xml").write_text(f"<annotation>{good}</annotation>")
    (root / "JPEGImages/copy.jpg").write_bytes((root / "JPEGImages/good.jpg").read_bytes())
    train = [*content, "broken", "cut", "nopicture", "noxml", "good"]
    (root / "ImageSets/Main/train.txt").write_text("\n".join(train) + "\n")
    (root / "ImageSets/Main/val.txt").write_text("copy\n")


VOC = {
    "degenerate box": 1,
    "box outside": 1,
    "box across the edge": 1,
    "repeated box": 1,
    "broken annotations": 2,
    "not RGB": 1,
    "rotated image": 1,
    "unreadable image": 1,
    "missing image": 1,
    "missing annotations": 1,
    "repeated name": 1,
    "image in train and val": 1,
    "another size stated": 1,
    "another file name stated": 1,
    "class in one set alone": 1,
    "class with few objects": 2,
}


def test_voc_issues(tmp_path, capsys):
    voc_folder(tmp_path / "voc")
    keys = ["data.format=voc", f"data.root={tmp_path / 'voc'}", "data.train=train", "data.val=val"]
    report = check_report(tmp_path, *keys, code=1)
    assert kinds(report) == VOC
    by_kind = {issue["kind"]: issue for issue in report["faults"]}
    assert by_kind["degenerate box"]["file"].endswith("degenerate.xml")
    assert by_kind["degenerate box"]["object"] == "1"
    assert by_kind["repeated box"]["object"] == "2"
    assert by_kind["image in train and val"]["file"].endswith("copy.jpg")
    assert by_kind["unreadable image"]["drops"]
    assert not by_kind["not RGB"]["drops"]
    train = report["sets"]["train"]
    assert (train["without_objects"], train["classes"]) == (2, {"cat": 8, "dog": 1})
    assert train["modes"] == {"RGB": 8, "L": 1}
    out = capsys.readouterr().out
    assert "degenerate box: dropped: no width or no height" in out
    assert "good.xml" in out
    # the second check uses the cache
    again = check_report(tmp_path, *keys, code=1)
    assert again == report
    quick = check_report(tmp_path, *keys, "--quick", code=1)
    image_kinds = {"unreadable image", "image in train and val", "not RGB", "rotated image"}
    assert not image_kinds & set(kinds(quick))


def coco_folder(root, split, images, annotations, categories):
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def test_coco_issues(tmp_path):
    root = tmp_path / "coco"
    categories = [{"id": 0, "name": "cat"}, {"id": 9, "name": "dog"}, {"id": 11, "name": "emu"}, {"name": "no id"}]
    images = [
        {"id": 1, "file_name": "a.png", "width": 60, "height": 40},
        {"id": 2, "file_name": "b.png", "width": 40, "height": 60},
        {"id": 3, "file_name": "absent.png", "width": 60, "height": 40},
        {"id": 1, "file_name": "a.png", "width": 60, "height": 40},
    ]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 0, "bbox": [0, 0, 60, 40]},
        {"id": 2, "image_id": 1, "category_id": 0, "bbox": [0, 0, 60, 40]},
        {"id": 3, "image_id": 1, "category_id": 9, "bbox": [5, 5, 0, 10]},
        {"id": 4, "image_id": 1, "category_id": 9, "bbox": [-5, 5, 10, 10], "is_crowd": 1},
        {"id": 5, "image_id": 1, "category_id": 77, "bbox": [5, 5, 10, 10]},
        {"id": 6, "image_id": 99, "category_id": 0, "bbox": [5, 5, 10, 10]},
        {"id": 7, "image_id": 1, "category_id": 0, "bbox": [5, 5, 10]},
    ]
    coco_folder(root, "train", images, annotations, categories)
    write_image(root / "train/a.png", 1)
    write_image(root / "train/b.png", 2)
    write_image(root / "train/spare.png", 3)
    report = check_report(
        tmp_path, "data.format=coco", f"data.root={root}", "data.train=train", "data.val=null", code=1
    )
    assert kinds(report) == {
        "broken annotations": 2,
        "unknown class": 1,
        "repeated name": 1,
        "missing image": 1,
        "stray annotation": 1,
        "degenerate box": 1,
        "repeated box": 1,
        "box across the edge": 1,
        "another size stated": 1,
        "unused file": 1,
        "class without objects": 1,
        "class with few objects": 1,
        "object that no anchor reaches": 1,
    }
    assert {f["object"] for f in report["faults"] if f["kind"] == "unknown class"} == {"5"}
    train = report["sets"]["train"]
    assert (train["crowd"], train["edges"]) == (1, {"right": 2, "bottom": 2})


def test_valid_folder_and_anchor_suggestion(tmp_path, capsys):
    root = tmp_path / "coco"
    images = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in (1, 2)]
    # resized to 800 x 1200: 60 px and 120 px, under the smallest anchors
    annotations = [
        {"id": i, "image_id": 1 + i % 2, "category_id": 1, "bbox": [3 * i, 2 * i, 3 + 3 * (i % 2), 3 + 3 * (i % 2)]}
        for i in range(10)
    ]
    coco_folder(root, "train", images, annotations, [{"id": 1, "name": "mite"}])
    for i in (1, 2):
        write_image(root / f"train/{i}.png", i)
    keys = ["data.format=coco", f"data.root={root}", "data.train=train", "data.val=null", "data.short_side=[800]"]
    report = check_report(tmp_path, *keys, "model.anchors.sizes=[256,512]", code=0)
    assert kinds(report) == {"object that no anchor reaches": 10}
    assert not any(issue["drops"] for issue in report["faults"])
    command = report["advice"]["object that no anchor reaches"]
    assert (
        command == f"resdet train {root} data.format=coco data.train=train data.val=null 'model.anchors.sizes=[60,120]'"
    )
    anchors = report["anchors"]
    assert anchors["boxes"] == 10
    assert anchors["matched"] == {"0.5": 0.0, "0.7": 0.0}
    assert anchors["suggestion"]["matched"]["0.5"] > 0.9
    assert "model.anchors.sizes=[60,120] would match" in capsys.readouterr().out


def test_training_checks_the_annotations_first(tmp_path, monkeypatch):
    """The log has one example of each kind, dataset.json has all issues, and the next run uses the cache."""
    monkeypatch.setattr(cache, "MIN_SECONDS", 0.0)
    root = tmp_path / "coco"
    images = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in (1, 2, 3)]
    boxes = [[5, 5, 30, 30], [5, 5, 0, 9], [70, 5, 9, 9], [50, 5, 20, 9], [9, 5, 0, 9]]
    annotations = [{"id": i, "image_id": 1 + i % 2, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    coco_folder(root, "train", images, annotations, [{"id": 1, "name": "mite"}])
    for i in (1, 2):
        write_image(root / f"train/{i}.png", i)
    keys = ["data.format=coco", f"data.root={root}", "data.train=train", "data.val=null", "solver.max_iter=1"]
    assert train(tmp_path / "first", keys=keys) == 0
    log = (tmp_path / "first/log.txt").read_text()
    assert "issues that lose training data: 4; notes: 3" in log
    assert "2  degenerate box: dropped: no width or no height" in log
    assert "object 4: mite 9, 5, 9, 14" in log
    assert "… and 1 more" in log
    assert "1  box outside" in log
    assert log.index("issues that lose") < log.index("training on 2 images")
    report = json.loads((tmp_path / "first/dataset.json").read_text())
    notes = {"box across the edge": 1, "class with few objects": 1, "object that no anchor reaches": 1}
    assert kinds(report) == {"degenerate box": 2, "missing image": 1, "box outside": 1, **notes}
    assert report["quick"]
    monkeypatch.setattr("detection.dataset_check.report.check", None)  # raises if it is called
    assert train(tmp_path / "second", keys=keys) == 0
    assert json.loads((tmp_path / "second/dataset.json").read_text()) == report


def test_missing_data_is_reported(tmp_path, capsys):
    assert run("check-dataset", ["data.format=voc", f"data.root={tmp_path}/none", "data.train=a"]) == 2
    assert "no folder" in capsys.readouterr().err
    assert run("check-dataset", ["data.format=shapes", "data.train=3", "data.val=3"]) == 2
    assert "nothing to check" in capsys.readouterr().err
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text("[1, 2")
    assert run("check-dataset", ["data.format=coco", f"data.root={tmp_path}", "data.train=train", "data.val=null"]) == 2
    assert "not valid JSON" in capsys.readouterr().err


@pytest.mark.data
def test_real_datasets(tmp_path, shared):
    bccd = check_report(
        tmp_path,
        "data.format=voc",
        f"data.root={shared}/data/bccd",
        "data.train=train+val+test",
        "data.val=null",
        code=1,
    )
    train = bccd["sets"]["train"]
    assert (train["pictures"], train["objects"], len(train["classes"])) == (364, 4888, 3)
    assert (train["edges"]["bottom"], train["edges"]["right"]) == (318, 237)
    degenerate = [issue["file"] for issue in bccd["faults"] if issue["kind"] == "degenerate box"]
    assert sorted(file[-9:-4] for file in degenerate) == ["00338", "00343"]

    coco = check_report(
        tmp_path,
        "data.format=coco",
        f"data.root={shared}/data/coco549",
        "data.train=train2017",
        "data.val=val2017",
        code=0,
    )
    train, val = coco["sets"]["train"], coco["sets"]["val"]
    assert [(s["pictures"], s["objects"], s["crowd"], s["without_objects"]) for s in (train, val)] == [
        (343, 2974, 29, 3),
        (206, 1786, 21, 2),
    ]
    assert train["modes"].get("L", 0) + val["modes"].get("L", 0) == 1

    voc = check_report(
        tmp_path,
        "data.format=voc",
        f"data.root={shared}/data/voc100",
        "data.train=train",
        "data.val=val",
        code=0,
    )
    sets = voc["sets"].values()
    assert sum(s["pictures"] for s in sets) == 100
    assert (sum(s["objects"] for s in sets), sum(s["difficult"] for s in sets)) == (273, 38)
