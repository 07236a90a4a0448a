"""From a folder to a detector: the split of a run is used again by whatever follows it."""

import json
import shlex

import pytest
from own_data import coco_set, keys
from runs import SMALL

from detection import evaluate
from detection.cli import run
from detection.training.planning.plan import SHAPES, WITHOUT_WEIGHTS

pytestmark = pytest.mark.usefixtures("thin_networks")
SETTINGS = [
    *(key for key in SMALL if not key.startswith(("data.train", "data.val"))),
    *("model.weights=null", "model.conv5_norm=bn", "solver.checkpoint_every=1", "solver.precision=float32"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one step on a folder that has no validation set."""
    folder = tmp_path_factory.mktemp("own")
    root = coco_set(folder / "cats", [["cat"], ["dog"], ["cat", "dog"], ["emu"]] * 4, split="train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESDET_CACHE", str(folder / "cache"))
        arguments = [str(root), *SETTINGS, "solver.max_iter=1", "--output", str(folder / "run"), "--no-timing"]
        assert run("train", arguments) == 0
        yield root, folder / "run"


def test_a_folder_is_all_it_takes(finished):
    _, output = finished
    split = json.loads((output / "split.json").read_text())
    assert {part: len(names) for part, names in split["images"].items()} == {"train": 13, "val": 3, "test": 0}
    assert (output / "best.pth").is_file()
    report = json.loads((output / "dataset.json").read_text())  # of the same split
    assert [report["sets"][part]["pictures"] for part in ("train", "val")] == [13, 3]


def test_resume_and_evaluation_read_the_runs_split(finished, caplog):
    root, output = finished
    caplog.set_level("INFO")
    # another split than the seed's, as if made by another version
    path = output / "split.json"
    split = json.loads(path.read_text())
    split["images"]["val"][0], split["images"]["train"][0] = split["images"]["train"][0], split["images"]["val"][0]
    path.write_text(json.dumps(split))
    wanted = sorted(name.partition("/")[2] for name in split["images"]["val"])

    def evaluated(folder):
        return {d["image_id"] for d in json.loads((folder / "detections.json").read_text())}

    assert evaluate(output / "best.pth", ["data.workers=0"], output=output.parent / "again")
    assert "the split is that of" in caplog.text
    assert run("train", [str(root), "--resume", "solver.max_iter=2", "--output", str(output)]) == 0
    assert json.loads(path.read_text())["images"] == split["images"]
    assert caplog.text.count("the split is that of") == 2
    assert evaluated(output) <= {int(name[:3]) + 1 for name in wanted}
    assert run("train", [str(root), "--eval-only", "--output", str(output)]) == 0
    assert caplog.text.count("the split is that of") == 3


def test_dry_run_and_save(finished, tmp_path, capsys):
    root, _ = finished
    arguments = [str(root), *SETTINGS, "--no-timing", "--output", str(tmp_path / "out")]
    assert run("train", [*arguments, "--dry-run", "--save", str(tmp_path / "mine.yaml")]) == 0
    assert not (tmp_path / "out").exists()
    out = capsys.readouterr().out
    assert "data.val=0.2" in out
    assert "the same without a folder: resdet train --config faster_rcnn_r18_own_data.yaml" in out
    assert run("train", ["--config", str(tmp_path / "mine.yaml"), "--print-config"]) == 0
    assert f"root: {root}" in capsys.readouterr().out
    assert run("train", [*arguments, "--dry-run", "--save", str(tmp_path / "mine.yaml")]) == 2


def test_weights_that_cannot_be_downloaded_name_what_else_there_is(finished, tmp_path, monkeypatch, capsys):
    root, _ = finished

    def refuse(*arguments, **options):
        raise ConnectionError("weights torchvision://resnet18 cannot be downloaded")

    monkeypatch.setattr("backbone.hub.fetch", refuse)
    monkeypatch.setattr("detection.checkpoint.detector.fetch", refuse, raising=False)
    assert run("train", [str(root), "--no-timing", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "cannot be downloaded" in error
    assert f"resdet train {root} model.weights=null model.norm=bn model.freeze_at=0" in error
    assert not (tmp_path / "out").exists()


def test_what_else_there_is_trains(finished, tmp_path, monkeypatch):
    root, _ = finished
    monkeypatch.chdir(tmp_path)
    settings = [
        key for key in SETTINGS if not key.startswith(("model.weights", "model.norm", "model.freeze", "pretrain"))
    ]
    settings += ["solver.max_iter=1"]
    program, command, *arguments = shlex.split(SHAPES)
    assert (program, command) == ("resdet", "train")
    short = [*SMALL, "pretrain.iterations=0", "solver.max_iter=1"]
    assert run("train", [*arguments, *short]) == 0
    for other, _ in WITHOUT_WEIGHTS[1:]:
        arguments = [str(root), *settings, *other.split(), "data.val=null", "--no-timing"]
        assert run("train", [*arguments, "--output", "out"]) == 0, other


def test_what_is_no_folder(tmp_path, capsys):
    assert run("train", [str(tmp_path / "none"), "--dry-run"]) == 2
    assert "no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("train", ["solver.max_iter=1"])
    with pytest.raises(SystemExit):
        run("train", ["--config", "quickstart.yaml", "--dry-run"])
    assert keys(tmp_path)[0] == "data.format=coco"
