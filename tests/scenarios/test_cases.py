"""Small data sets after public bug reports (RESDET_SHARED/cases): each is refused in one message, or read as it should be,
and the dataset check names what training does."""

import json
import re
import tarfile
from collections import Counter

import numpy as np
import pytest
from runs import command_train

from detection.commands.evaluate import main as evaluate
from detection.config import DataConfig
from detection.data.annotations import train_objects
from detection.data.image import UnreadableImage
from detection.data.loader import TrainSet
from detection.data.opening import open_source
from detection.dataset_check.report import check
from detection.training.run import Config

pytestmark = pytest.mark.data

# what training refuses: words of the message, all in one line of it
REFUSED = {
    "02-normalised": "boxes look relative, all 8 lie within 0..1",
    "03-empty-bbox": "object 900: broken annotations, bbox [] has 0 values",
    "04-no-bbox": "object 2: broken annotations, no bbox",
    "05-bbox-object": "object 1: broken annotations, bbox {'cx': 112.0",
    "06-five-numbers": "object 1: broken annotations, bbox [112.0, 25.0, 56, 46, 30.0] has 5 values",
    "09-same-class-name": "repeated class, name 'thing' is that of the ids",
    "09b-same-category-id": "repeated class, id 1 is that of 'car' and of 'dog'",
    "18-lvis-no-file-name": "images[0]: broken annotations, no file_name; LVIS gives coco_url",
    "23-zip-as-json": "instances_val.json is not valid JSON: it is a zip archive",
    "32-list-latin1": "train.txt, line 1: not UTF-8",
    "33-robndbox": "train_01.xml, object 2: broken annotations, a rotated box",
}
# what is read: images, objects used in training, of the training set and kinds of issues, of both sets, beside notes on
# numbers in quotes of sound files; None where the number does not matter
READ = {
    "00-base-coco": (4, 8, {}),
    "00-base-voc": (4, 8, {}),
    "01-xyxy": (4, 8, {"boxes look like x1, y1, x2, y2": 2, "box across the edge": 10}),
    "07b-image-id-str-vs-int": (4, 8, {"number in quotes": 2}),
    "08-category-id-str": (4, 8, {"number in quotes": 2}),
    "12-val-without-objects": (4, 8, {"class in one set alone": 2}),
    "13-all-crowd": (4, 0, {"nothing to train on": 1}),
    "14-backslash-mixed": (2, 4, {"missing image": 3, "unused file": 3}),
    "15-size-swapped": (4, 8, {"another size stated": 6}),
    "17-file-twice": (5, 9, {"image listed twice": 2}),
    "20-area-null": (4, 8, {}),
    "21-sizes-str": (4, 8, {"number in quotes": 4}),
    "22-category-order": (4, 8, {"classes in another order": 1}),
    "25-nan": (4, 7, {"non-finite box": 2}),
    "30-difficult-unspecified": (4, 8, {"difficult unclear": 6}),
    "31-list-utf16": (4, 8, {}),
    "34-several-bndbox": (4, 12, {"several boxes in an object": 6}),
    "39-subfolders": (4, 8, {}),
    "42-jpg-and-png": (4, 8, {}),
    "45-val-background": (4, 8, {"class in one set alone": 2}),
    "46-class-case": (4, 8, {"class names alike": 1, "class in one set alone": 1}),
    "48-avif": (4, 8, {"another file name stated": 2}),
    "49-dangling-link": (3, 6, {"missing image": 2}),
    "51-nfd": (3, 6, {"missing image": 1, "missing annotations": 1}),
    "60-float-tiff": (4, 8, {"unreadable image": 6}),
    "61-huge-picture": (4, 8, {"unreadable image": 2}),
    "63-extreme-aspect": (4, 8, {"image in train and val": 2}),
    "65-many-boxes": (4, 2485, {"repeated box": 52}),
    "67-long-name": (3, 6, {"missing image": 1, "unused file": 1}),
    "73-val-first-cut-off": (4, 8, {"unreadable image": 1}),
    "74-detections": (4, 8, {}),
    "76-val-ninth-cut-off": (4, 8, {"unreadable image": 1}),
    "83-numbered-sets": (4, 8, {}),
    "91-ignore": (4, 4, {"ignored objects": 2}),
}


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def cases(shared, tmp_path_factory):
    """The folders by name, those with odd names unpacked."""
    odd = tmp_path_factory.mktemp("odd")
    with tarfile.open(shared / "cases/odd-names.tar") as archive:
        archive.extractall(odd, filter="fully_trusted")
    return {folder.name: folder for root in (shared / "cases/data", odd) for folder in root.iterdir()}


def config(folder):
    is_coco = (folder / "annotations").is_dir()
    train, val = ("01", "2012_02") if folder.name.startswith("83") else ("train", "val")
    return DataConfig(format="coco" if is_coco else "voc", root=str(folder), train=train, val=val, workers=0)


def kinds(report):
    """The issues by kind, but for what sets of four images must have."""
    of_size = {"class with few objects", "object that no anchor reaches"}
    return dict(Counter(issue["kind"] for issue in report["faults"] if issue["kind"] not in of_size))


def test_every_case_has_its_row(cases):
    assert {*REFUSED, *READ, "38-flat-folder"} == set(cases)


@pytest.mark.parametrize("name", REFUSED)
def test_what_training_refuses_is_one_message(cases, name):
    data = config(cases[name])
    with pytest.raises(ValueError) as found:
        open_source(data)
    assert any(REFUSED[name] in line for line in str(found.value).splitlines())
    assert len(str(found.value)) < 1000
    if name.startswith(("23", "32")):  # nothing can be read at all
        with pytest.raises(ValueError) as checked:
            check(Config(data=data))
        assert str(checked.value) == str(found.value)
    else:
        assert any(issue["then"] == "training refuses to start" for issue in check(Config(data=data))["faults"])


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_as_the_check_says(cases, name):
    data, (images, objects, issues) = config(cases[name]), READ[name]
    report = check(Config(data=data))
    source = open_source(data)
    assert (len(source.train), int(train_objects(source.train, False).keep.sum())) == (images, objects)
    assert source.val.classes == source.train.classes
    for split, records in (("train", source.train), ("val", source.val)):
        counts = report["sets"][split]
        assert (counts["pictures"], counts["objects"]) == (len(records), len(records.labels))
    if issues is not None:
        assert kinds(report) == issues


def test_a_flat_folder(cases):
    data = DataConfig(format="voc", root=str(cases["38-flat-folder"]), train="train", val=None)
    source = open_source(data)
    assert (len(source.train), len(source.train.labels)) == (6, 12)
    assert kinds(check(Config(data=data))) == {}


def test_another_unicode_form_is_hinted_at(cases):
    issues = check(Config(data=config(cases["51-nfd"])))["faults"]
    hints = [issue["found"] for issue in issues if issue["kind"] == "missing image"]
    assert all("another Unicode form" in hint for hint in hints)


def test_floating_point_images_are_refused_by_name(cases):
    source = open_source(config(cases["60-float-tiff"]))
    with pytest.raises(UnreadableImage, match=r"train_0\d\.tif.*floating-point numbers from"):
        source.read(source.train.files[0])
    dataset = TrainSet(source.train, source.read, config(cases["60-float-tiff"]), 0)
    with pytest.raises(ValueError, match=r"none of its 4 images can be read, the last: .*floating-point"):
        dataset[0, 0]


def test_boxes_of_swapped_sizes_are_clipped_at_the_images_own(cases):
    base, swapped = (open_source(config(cases[n])).train for n in ("00-base-coco", "15-size-swapped"))
    assert np.array_equal(swapped.sizes, base.sizes)


@pytest.mark.parametrize(
    "name", ["12-val-without-objects", "45-val-background", "63-extreme-aspect", "73-val-first-cut-off"]
)
def test_runs_end_with_their_weights(cases, tmp_path, name):
    data = config(cases[name])
    keys = [f"data.{key}={getattr(data, key)}" for key in ("format", "root", "train", "val")]
    keys += ["data.workers=0", "data.short_side=64", "data.max_side=200", "solver.max_iter=1", "model.weights=null"]
    keys += ["model.backbone=resnet18", "model.norm=bn", "model.freeze_at=0", "solver.precision=float32"]
    arguments = ["--config", "faster_rcnn_r18_voc.yaml", "--output", str(tmp_path / "out")]
    assert command_train([*arguments, *keys]) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert (tmp_path / "out/best.pth").is_file()
    if "val-" in name and name.startswith(("12", "45")):
        assert metrics["AP"] is None
        assert metrics["undefined"]["AP"] == "no ground truth"
    assert command_train([*arguments, "--resume", *keys]) == 0


DETECTIONS = {
    "good": 1.0,
    "stems": 1.0,
    "str_ids": 1.0,
    "str_score": 1.0,
    "empty": 0.0,
    "normalised": "boxes look relative",
    "xyxy": "boxes look like [x1, y1, x2, y2]",
    "zero_based": "seem to count from 0",
    "five": "detection 0 is invalid: bbox [115, 86, 39, 26, 30] has 5 values",
    "keypoints_only": "detection 0 has no 'bbox'",
    "nan_score": "detection 0 is invalid: score: nan is not a finite number",
}


@pytest.mark.parametrize("name", DETECTIONS)
def test_detections(cases, tmp_path, caplog, name):
    folder, expected = cases["74-detections"], DETECTIONS[name]
    arguments = [
        str(folder / f"{name}.json"),
        str(folder / "annotations/instances_val.json"),
        "--output",
        str(tmp_path),
    ]
    if name in ("five", "keypoints_only", "nan_score"):
        with pytest.raises(ValueError, match=re.escape(expected)):
            evaluate(arguments)
        return
    evaluate(arguments)
    if isinstance(expected, float):
        assert json.loads((tmp_path / "metrics.json").read_text())["AP"] == expected
    else:
        assert expected in caplog.text


def test_ignored_objects_count_neither_way(cases, tmp_path):
    folder = cases["91-ignore"]
    evaluate([str(folder / "p.json"), str(folder / "annotations/instances_val.json"), "--output", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["AP"], metrics["VOC_mAP"]) == (1.0, 1.0)


def test_boxes_that_are_not_finite_are_named_in_evaluation(cases, tmp_path, caplog):
    folder = cases["25-nan"]
    (tmp_path / "d.json").write_text("[]")
    evaluate([str(tmp_path / "d.json"), str(folder / "annotations/instances_val.json")])
    assert "instances_val.json, object 1: non-finite box, bbox [nan, nan, nan, nan]" in caplog.text


def test_voc_difficult_objects_of_a_coco_file(shared, tmp_path):
    folder = shared / "data/evaluation/voc07"
    evaluate([str(folder / "detections.json"), str(folder / "voc07_test.json"), "--output", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    # another implementation's values: shared/data/README.md
    assert metrics["VOC07_mAP"] == pytest.approx(0.746607, abs=1e-6)
    assert metrics["VOC_mAP"] == pytest.approx(0.770646, abs=1e-6)
    person = metrics["per_class"]["person"]
    assert (person["VOC07_AP"], person["VOC_AP"]) == (
        pytest.approx(0.758446, abs=1e-6),
        pytest.approx(0.781278, abs=1e-6),
    )
