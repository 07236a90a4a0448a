import json

from PIL import Image

from detection.cli import run


def coco(root, name):
    (root / "train").mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(root / "train" / "a.png")
    content = {
        "images": [{"id": 5, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [{"id": 1, "image_id": 5, "category_id": 3, "bbox": [1, 2, 30, 20]}],
        "categories": [{"id": 3, "name": name}],
    }
    (root / "train.json").write_text(json.dumps(content))


def test_two_sets_become_one(tmp_path, capsys):
    coco(tmp_path / "x", "cat")
    coco(tmp_path / "y", "dog")
    argv = ["merge", "--from", f"coco:{tmp_path}/x:train", "--from", f"coco:{tmp_path}/y", "--to", "coco"]
    assert run("data", [*argv, "--output", str(tmp_path / "out")]) == 0
    assert "train 2 images, 2 objects; 2 classes" in capsys.readouterr().out
    content = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [(1, "a.png"), (2, "y/a.png")]
    assert [c["name"] for c in content["categories"]] == ["cat", "dog"]


def test_a_source_of_another_form_is_one_message(tmp_path, capsys):
    assert run("data", ["merge", "--from", "x", "--output", str(tmp_path / "out")]) == 2
    assert "expected FORMAT:FOLDER" in capsys.readouterr().err
