"""A run on a data set in YOLO's format has the losses and metrics of the run on its COCO form, bit for bit."""

import json

import numpy as np
import pytest
from PIL import Image
from runs import SMALL, command_train

from detection.cli import run
from detection.data import open as open_split
from detection.data.synthetic import draw_image, shapes_records
from detection.data_tools.writers import write_dataset

pytestmark = pytest.mark.usefixtures("thin_networks")
BY_SIZE = {"APs", "APm", "APl", "ARs", "ARm", "ARl"}  # COCO's areas are the masks', YOLO has none


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Synthetic shapes as COCO, with ids that have gaps and images whose names are not in the order of their ids."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for split, count, seed in (("train", 6, 1), ("val", 3, 2)):
        records = shapes_records(count, seed)
        (root / split).mkdir()
        content = records.to_coco()
        for k, image in enumerate(content["images"]):
            Image.fromarray(draw_image(records.files[k])).save(root / split / f"{(5 * k) % 7}.png")
            image["file_name"] = f"{(5 * k) % 7}.png"
        for category in content["categories"]:
            category["id"] = 3 * category["id"]
        for annotation in content["annotations"]:
            annotation["category_id"] *= 3
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def trained(root, output, format):
    keys = [k for k in SMALL if not k.startswith(("data.train", "data.val"))]
    keys += [f"data.format={format}", f"data.root={root}", "data.train=train", "data.val=val"]
    assert command_train(["--config", "quickstart.yaml", "--output", str(output), *keys]) == 0
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    metrics = json.loads((output / "metrics.json").read_text())
    losses = [{k: v for k, v in row.items() if k.startswith("loss")} for row in rows]
    return losses, {k: v for k, v in metrics.items() if isinstance(v, float) and k not in BY_SIZE}


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_a_converted_set_trains_to_the_same_losses(coco, tmp_path, to):
    argv = ["convert", "data.format=coco", f"data.root={coco}", "data.train=train", "data.val=val"]
    assert run("data", [*argv, "--to", to, "--output", str(tmp_path / to)]) == 0
    losses, metrics = trained(coco, tmp_path / "a", "coco")
    assert len(losses) > 3
    assert "AP" in metrics
    assert trained(tmp_path / to, tmp_path / "b", "auto") == (losses, metrics)


@pytest.mark.data
def test_coco549_trains_the_same_from_its_yolo_form(shared, tmp_path):
    root = shared / "data" / "coco549"
    splits = {"train": open_split("coco", root, "train2017"), "val": open_split("coco", root, "val2017")}
    val = splits["val"]  # without images that have crowd regions, which YOLO cannot hold and evaluation counts
    without = np.ones(len(val), dtype=bool)
    without[val.image_of()[val.crowd]] = False
    splits["val"] = val.select(without)
    for to in ("coco", "yolo"):
        write_dataset(splits, tmp_path / to, to)
    losses, metrics = trained(tmp_path / "coco", tmp_path / "a", "coco")
    assert len(losses) > 3
    assert trained(tmp_path / "yolo", tmp_path / "b", "yolo") == (losses, metrics)
