"""Resume finished, early-stopped and extended runs."""

import dataclasses

import pytest
import torch
from runs import differences, load, rows, train

from detection import load_config
from detection.checkpoint.metadata import KEY, parse_metadata
from detection.training.resume import check_resume

pytestmark = pytest.mark.usefixtures("thin_networks")
KEYS = ["data.val=1", "solver.max_iter=3", "solver.schedule=step", "solver.steps=[100]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "finished"
    assert train(output, keys=KEYS) == 0
    return output


def test_finished_run_is_reported_and_unchanged(finished, capsys, caplog):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert train(finished, "--resume", keys=KEYS) == 0
    assert "the run is finished at step 3; extend it with --resume solver.max_iter=N" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_finished_run_can_be_extended(finished, tmp_path):
    import shutil

    longer, whole = tmp_path / "longer", tmp_path / "whole"
    shutil.copytree(finished, longer)
    keys = [*KEYS, "solver.max_iter=5"]
    assert train(longer, "--resume", keys=keys) == 0
    assert [row["step"] for row in rows(longer) if "loss" in row] == [1, 2, 3, 4, 5]
    assert load(longer / "last.pth")["global_step"] == 5
    # with a constant learning rate it equals a run of that length
    assert train(whole, keys=keys) == 0
    losses = [[row for row in rows(folder) if "loss" in row] for folder in (longer, whole)]
    assert losses[0] == losses[1]
    assert differences(load(longer / "last.pth")["state_dict"], load(whole / "last.pth")["state_dict"]) == []
    assert load(longer / "last.pth")["lr_schedulers"] == load(whole / "last.pth")["lr_schedulers"]


def test_max_iter_below_the_checkpoint_raises(finished, capsys):
    assert train(finished, "--resume", keys=[*KEYS, "solver.max_iter=2"]) == 2
    assert "is already at step 3, and solver.max_iter is 2" in capsys.readouterr().err


def test_early_stopped_run_is_reported_and_can_be_extended(tmp_path, caplog):
    keys = ["data.val=1", "solver.max_iter=6", "solver.eval_every=1", "solver.early_stop=1"]
    assert train(tmp_path, keys=keys) == 0
    stopped = load(tmp_path / "last.pth")["global_step"]
    assert stopped < 6
    caplog.clear()
    assert train(tmp_path, "--resume", keys=keys) == 0
    assert (
        f"the run is finished: it stopped early at step {stopped}, after 1 evaluations without improvement"
        in caplog.text
    )
    assert load(tmp_path / "last.pth")["global_step"] == stopped
    caplog.clear()
    assert train(tmp_path, "--resume", keys=[*keys, "solver.max_iter=8", "solver.early_stop=null"]) == 0
    assert load(tmp_path / "last.pth")["global_step"] == 8


def test_classifier_checkpoint_is_not_a_detector(finished, tmp_path, capsys):
    torch.save({"global_step": 1}, tmp_path / "last.pth")
    assert train(tmp_path, "--resume", keys=KEYS) == 2
    assert "is not a training checkpoint of a detector" in capsys.readouterr().err


def test_how_images_are_loaded_may_differ_and_other_changes_are_named(finished, tmp_path, caplog):
    caplog.set_level("WARNING")
    last, config = finished / "last.pth", load_config(finished / "config.yaml")
    classes = parse_metadata(load(last)[KEY], "x").classes
    loading = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=3, timeout=7))
    check_resume(last, loading, classes)
    assert caplog.text == ""
    check_resume(last, dataclasses.replace(loading, seed=8, data=dataclasses.replace(loading.data, flip=0.1)), classes)
    assert "data.flip, seed differ from the configuration of" in caplog.text
