"""Fault tolerance of a run: signals, SIGKILL, damaged checkpoints, a full disk, non-finite losses."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import Forked
from runs import SMALL, THIN, TOOLS, command_train, compare, load, rows, train

from detection.cli import run
from detection.data import opening as source
from detection.training.detection_module import DetectionModule
from detection.training.evaluator import Evaluator
from detection.utils.atomic_io import replacing

pytestmark = pytest.mark.usefixtures("thin_networks")
LAST = 60
LONG = [*SMALL, f"solver.max_iter={LAST}", "solver.steps=[0.8]", "solver.ema=0.9"]


def arguments(output, *extra, keys=LONG):
    return ["--config", "quickstart.yaml", "--output", str(output), *extra, *keys]


def start(output, *extra, keys=LONG, preexec_fn=None):
    return Forked(command_train, arguments(output, *extra, keys=keys), preexec_fn=preexec_fn)


def start_interpreter(output, keys):
    command = [sys.executable, str(TOOLS / "train_net.py"), "--import", str(THIN), *arguments(output, keys=keys)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def steps(output):
    return [row["step"] for row in rows(output) if "loss" in row]


def wait_for(output, step, process):
    while process.poll() is None and max(steps(output), default=0) < step:
        time.sleep(0.01)


def assert_same_result(a, b):
    state_a, state_b = load(a / "last.pth"), load(b / "last.pth")
    assert state_a["global_step"] == state_b["global_step"] == LAST
    for name, value in state_a["state_dict"].items():
        assert torch.equal(value, state_b["state_dict"][name]), name
    assert steps(a) == steps(b) == list(range(1, LAST + 1))
    assert (a / "metrics.json").read_text() == (b / "metrics.json").read_text()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train(folder, keys=LONG) == 0
    return folder


@pytest.mark.parametrize(
    ("number", "code", "begin"),
    [
        (signal.SIGTERM, 143, start),
        (signal.SIGINT, 130, start),
        pytest.param(signal.SIGTERM, 143, start_interpreter, marks=pytest.mark.slow),
    ],
)
def test_signal_saves_a_checkpoint_and_sets_the_exit_code(undisturbed, tmp_path, number, code, begin):
    process = begin(tmp_path, keys=[*LONG, "data.workers=1"])
    wait_for(tmp_path, 3, process)
    os.killpg(process.pid, number)  # as a terminal does: DataLoader workers receive it too
    _, stderr = process.communicate()
    assert process.returncode == code, stderr
    assert f"stopped by {number.name} at step" in stderr
    assert "Traceback" not in stderr
    stopped = load(tmp_path / "last.pth")["global_step"]
    assert 3 <= stopped < LAST
    assert max(steps(tmp_path)) == stopped  # all completed steps are saved and logged
    assert train(tmp_path, "--resume", keys=LONG) == 0
    assert_same_result(tmp_path, undisturbed)


def test_repeated_interrupts_keep_saved_checkpoints(undisturbed, tmp_path):
    """A second Ctrl-C during the step, while saving, or afterwards."""
    process = start(tmp_path)
    wait_for(tmp_path, 3, process)
    for pause in (0.0, 0.05, 0.1):
        time.sleep(pause)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode in (130, -signal.SIGINT), stderr  # the latter if it arrives while the interpreter exits
    saved = next(path for name in ("last.pth", "previous.pth") if (path := tmp_path / name).exists())
    assert load(saved)["global_step"] >= 2
    assert train(tmp_path, "--resume", keys=LONG) == 0
    assert_same_result(tmp_path, undisturbed)


def test_an_evaluation_that_is_owed_is_made_up_for(tmp_path, monkeypatch):
    """A run that stops between a step's state and its evaluation, in mid-run."""
    keys = [*SMALL, "data.val=1", "solver.eval_every=2"]
    assert train(tmp_path / "whole", keys=keys) == 0
    original = Evaluator.__call__

    def interrupted(self, module):
        if module.trainer.global_step == 2:
            raise OSError("simulated crash")
        return original(self, module)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", interrupted)
        assert train(tmp_path / "broken", keys=keys) == 2
    assert load(tmp_path / "broken/last.pth")["global_step"] == 2
    assert train(tmp_path / "broken", "--resume", keys=keys) == 0
    assert compare(tmp_path / "whole", tmp_path / "broken") == []
    assert [row["step"] for row in rows(tmp_path / "broken") if "AP" in row] == [2, 4]


def test_killed_dataloader_worker_is_reported(undisturbed, tmp_path):
    process = start(tmp_path, keys=[*LONG, "data.workers=1"])
    wait_for(tmp_path, 3, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("requires /proc to find the DataLoader worker")
    own = Path("/proc/self/cmdline").read_bytes()  # which a forked worker has, and multiprocessing's tracker has not
    workers = [pid for pid in children.read_text().split() if Path(f"/proc/{pid}/cmdline").read_bytes() == own]
    os.kill(int(workers[0]), signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 2, stderr
    assert "data loading failed at step" in stderr
    assert workers[0] in stderr
    assert "Traceback" not in stderr
    assert train(tmp_path, "--resume", keys=LONG) == 0
    assert_same_result(tmp_path, undisturbed)


def test_hanging_dataloader_worker_is_reported(tmp_path, monkeypatch, capsys):
    """As on a disk that does not respond."""
    read = source.draw_image

    def hang(name):
        if name == "shapes-0-000004.png":
            time.sleep(60)
        return read(name)

    monkeypatch.setattr(source, "draw_image", hang)
    started = time.monotonic()
    assert train(tmp_path, keys=["data.workers=1", "data.timeout=2"]) == 2
    assert time.monotonic() - started < 40
    stderr = capsys.readouterr().err
    assert "data loading failed at step" in stderr
    assert "timed out after 2 seconds" in stderr
    assert "the disk is slow or data.timeout too short" in stderr


def test_truncated_checkpoint_is_renamed(undisturbed, tmp_path, caplog):
    assert train(tmp_path, keys=[*LONG, "solver.max_iter=6", "solver.steps=[11]"]) == 0
    assert load(tmp_path / "previous.pth")["global_step"] in (4, 6)
    last = tmp_path / "last.pth"
    last.write_bytes(last.read_bytes()[:-1000])
    assert train(tmp_path, "--resume", keys=[*LONG, "solver.max_iter=6", "solver.steps=[11]"]) == 0
    assert "is damaged and was renamed to last.pth.damaged" in caplog.text
    assert "the newest valid checkpoint" in caplog.text
    assert (tmp_path / "last.pth.damaged").exists()
    (tmp_path / "last.pth").write_bytes(b"")
    (tmp_path / "previous.pth").write_bytes(b"PK")
    assert train(tmp_path, "--resume", keys=LONG) == 2


def test_full_disk_keeps_the_last_checkpoint(undisturbed, tmp_path):
    process = start(tmp_path)
    wait_for(tmp_path, 5, process)
    process.kill()
    process.communicate()
    before = load(tmp_path / "last.pth")["global_step"]
    # writes beyond 1 MiB fail, as on a full disk
    limited = start(tmp_path, "--resume", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20)))
    _, stderr = limited.communicate()
    assert limited.returncode == 2
    assert "cannot be written" in stderr
    assert "--resume" in stderr
    assert load(tmp_path / "last.pth")["global_step"] == before
    assert not list(tmp_path.glob("*.part"))
    assert train(tmp_path, "--resume", keys=LONG) == 0
    assert_same_result(tmp_path, undisturbed)


@pytest.mark.slow
def test_repeated_kills(undisturbed, tmp_path):
    rng = random.Random(0)
    for attempt in range(12):
        process = start(tmp_path, *(["--resume"] if attempt else []))
        if attempt % 2:
            time.sleep(rng.uniform(3, 9))
        else:
            wait_for(tmp_path, max(steps(tmp_path), default=0) + rng.randint(1, 2), process)
            time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate()
    assert train(tmp_path, "--resume", keys=LONG) == 0
    assert_same_result(tmp_path, undisturbed)


def make_loss_non_finite(monkeypatch, call):
    """Make the losses of one call non-finite."""
    calls, original = [], DetectionModule.compute_losses

    def compute(self, batch, generator):
        losses = original(self, batch, generator)
        calls.append(1)
        if len(calls) == call:
            losses["loss_box"] = losses["loss_box"] * float("nan")
        return losses

    monkeypatch.setattr(DetectionModule, "compute_losses", compute)


def test_non_finite_loss_stops_the_run(tmp_path, monkeypatch, capsys):
    make_loss_non_finite(monkeypatch, 3)
    assert train(tmp_path) == 2
    stderr = capsys.readouterr().err
    assert "step 3: non-finite loss (loss_box=nan) on images " in stderr
    assert f"resdet replay {tmp_path / 'not_finite.pth'}" in stderr
    assert load(tmp_path / "last.pth")["global_step"] == 2
    saved = load(tmp_path / "not_finite.pth")
    assert len(saved["images"]) == len(saved["files"]) == 2
    # the replayed step is finite, with the original losses
    assert run("replay", [str(tmp_path / "not_finite.pth")]) == 0
    out = capsys.readouterr().out
    assert "all values are finite" in out
    again = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.startswith("loss_")}
    assert again["loss_classifier"] == f"{saved['losses']['loss_classifier']:.6g}"


def test_replay_names_non_finite_layers(tmp_path, monkeypatch, capsys):
    assert train(tmp_path, keys=["solver.base_lr=1e30", "solver.clip_norm=null"]) == 2
    capsys.readouterr()
    assert run("replay", [str(tmp_path / "not_finite.pth")]) == 0
    out = capsys.readouterr().out
    assert "is non-finite" in out


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_non_finite_steps_are_skipped(tmp_path, monkeypatch, caplog, micro_batches):
    keys = ["solver.not_finite=skip", "solver.steps=[9]", f"solver.accumulate={micro_batches}"]
    assert train(tmp_path / "one", keys=[*keys, "solver.max_iter=1"]) == 0
    make_loss_non_finite(monkeypatch, 2 * micro_batches)
    assert train(tmp_path / "two", keys=[*keys, "solver.max_iter=2"]) == 0
    assert "step 2: non-finite loss (loss_box=nan); the step is skipped (1 so far)" in caplog.text
    assert not (tmp_path / "two" / "not_finite.pth").exists()
    one, two = (load(tmp_path / name / "last.pth")["state_dict"] for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_run_json_records_provenance(undisturbed):
    (entry,) = json.loads((undisturbed / "run.json").read_text())
    assert entry["versions"]["torch"] == torch.__version__
    assert entry["seed"] == 0
    assert entry["command"]
    assert entry["host"]
    assert "resdet" in (undisturbed / "log.txt").read_text()


def test_deterministic_mode_runs(tmp_path, monkeypatch):
    """It is on in the training steps, and off after the run."""
    modes, step = [], DetectionModule.training_step

    def training_step(self, *args):
        modes.append(torch.are_deterministic_algorithms_enabled())
        return step(self, *args)

    monkeypatch.setattr(DetectionModule, "training_step", training_step)
    assert train(tmp_path, keys=["deterministic=true", "solver.max_iter=1"]) == 0
    assert modes == [True]
    assert not torch.are_deterministic_algorithms_enabled()


def test_replacing_is_atomic(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as part:
        part.write_text(json.dumps({1: object()})[:3])
    assert path.read_text() == "old"
    with replacing(path) as part:
        part.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
