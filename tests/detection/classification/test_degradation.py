import contextlib
import json

import pytest
import torch
from forked import Forked
from PIL import Image

from detection.classification import degradation
from detection.classification.degradation import Run
from detection.cli import run
from detection.config import dump_config

KEYS = [
    "data.train=24",
    "data.val=12",
    "network.width=8",  # 1x1 convolutions of 4 channels crash in torch 2.14 on CPUs with AVX2 alone
    "solver.batch_size=4",
    "solver.max_iter=4",
    "solver.log_every=2",
    "solver.eval_every=2",
]


def go(output, *keys, networks=("cifar_plain20", "cifar_resnet20")):
    argv = ["--config", "degradation_shapes", "--output", str(output), "--jobs", "2", "--seeds", "0"]
    return run("degradation", [*argv, "--networks", ",".join(networks), *KEYS, *keys])


def start_forked(run_, threads):
    """As degradation._start, without an interpreter of its own, which takes ten seconds."""
    folder = run_.folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("wanted.yaml", dump_config(run_.config)), ("screen.txt", "")):
        (folder / name).write_text(content)
    resume = ["--resume"] if (folder / "last.pth").exists() else []
    argv = ["--config", str(folder / "wanted.yaml"), "--output", str(folder), *resume]
    return Forked(run, "train-classifier", argv)


@contextlib.contextmanager
def forked():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(degradation, "_start", start_forked)
        patch.setattr(degradation, "_POLL_SECONDS", 0.05)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("degradation")
    with forked():
        assert go(folder) == 0
    return folder


def test_every_network_is_trained_and_plotted(finished):
    summary = json.loads((finished / "degradation.json").read_text())
    assert list(summary) == ["cifar_plain20", "cifar_resnet20"]
    for name, entry in summary.items():
        metrics = json.loads((finished / f"{name}-seed0" / "metrics.json").read_text())
        assert entry["test_error"] == [1 - metrics["top1"]]
        rows = map(json.loads, (finished / f"{name}-seed0" / "metrics.jsonl").read_text().splitlines())
        accuracies = {row["step"]: row["train_top1"] for row in rows if "train_top1" in row}
        assert set(accuracies) == {2, 4}
        assert entry["train_error"] == [1 - accuracies[4]]
        assert accuracies[4] in [i / 8 for i in range(9)]  # two steps of four images
    with Image.open(finished / "degradation.png") as image:
        assert image.size > (1000, 400)


def test_finished_runs_are_kept(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.pth")}
    assert go(finished) == 0
    assert "2 of 2 runs are already finished" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*.pth")} == before


def test_another_configuration_is_rejected(finished, capsys):
    assert go(finished, "solver.base_lr=0.3") == 2
    assert "has a run with another configuration" in capsys.readouterr().err


def test_stopped_run_is_resumed(tmp_path):
    """A run that stopped before its last evaluation, with a log up to step 4 of 8, resumes from its checkpoint."""
    with forked():
        assert go(tmp_path, "solver.max_iter=8", "solver.checkpoint_every=4", networks=["cifar_plain20"]) == 0
    folder = tmp_path / "cifar_plain20-seed0"
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("".join(line + "\n" for line in lines if json.loads(line)["step"] <= 4))
    checkpoint = torch.load(folder / "last.pth", weights_only=True)
    checkpoint["callbacks"]["Evaluation"]["done_at"] = 4
    torch.save(checkpoint, folder / "last.pth")
    with forked():
        assert go(tmp_path, "solver.max_iter=8", "solver.checkpoint_every=4", networks=["cifar_plain20"]) == 0
    assert "resuming from" in (folder / "log.txt").read_text()


def test_failed_run_reports_its_output(tmp_path, capsys):
    assert go(tmp_path, "data.format=folders", f"data.root={tmp_path}", networks=["cifar_plain20"]) == 2
    err = capsys.readouterr().err
    assert "exited with code 2" in err
    assert "CLASS/image.jpg" in err


def test_unknown_networks_and_jobs(tmp_path, capsys):
    assert go(tmp_path, networks=["cifar_plian20"]) == 2
    assert "did you mean cifar_plain20" in capsys.readouterr().err
    assert run("degradation", ["--config", "degradation_shapes", "--jobs", "0"]) == 2
    assert run("degradation", ["--config", "degradation_shapes", "--seeds", "0,one"]) == 2
    assert "such as 0,1,2; got 0,one" in capsys.readouterr().err
    assert go(tmp_path, "data.val=null") == 2
    assert "needs a validation set" in capsys.readouterr().err


def test_finished_needs_the_final_evaluation(finished):
    from detection.classification.config import ClassifierConfig
    from detection.config import load

    config = load(ClassifierConfig, "degradation_shapes", KEYS, "classifiers")
    done = Run("cifar_plain20", 0, finished / "cifar_plain20-seed0", config)
    assert (done.step(), done.finished()) == (4, True)
    unstarted = Run("cifar_plain20", 1, finished / "cifar_plain20-seed1", config)
    assert (unstarted.step(), unstarted.finished()) == (0, False)


def test_incompatible_settings_are_rejected(tmp_path, capsys):
    for key in ("mixup=0.2", "solver.early_stop=2"):
        assert go(tmp_path, key) == 2
        assert "set mixup=0 cutmix=0 solver.early_stop=null" in capsys.readouterr().err
    assert go(tmp_path, networks=["cifar_plain20", "cifar_plain20"]) == 2
    assert "duplicate network or seed" in capsys.readouterr().err
    assert go(tmp_path, "network.shortcut=B") == 2
    assert "cifar_plain20 has no shortcuts" in capsys.readouterr().err
