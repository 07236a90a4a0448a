"""Distributed training: a killed rank, signals, and two nodes, which are network namespaces here."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked
from ranks import two_ranks
from runs import SMALL, THIN, TOOLS, command_train, compare
from runs import load as load_file
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from detection.classification import train as classification
from detection.classification.config import ClassifierConfig
from detection.classification.images import LabelledImages
from detection.classification.networks import build_network
from detection.config import load
from detection.training import run as engine
from detection.training import shapes_pretraining

pytestmark = pytest.mark.usefixtures("thin_networks")
ENV = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
LAUNCH = [sys.executable, "-m", "torch.distributed.run"]
LONG = [*SMALL, "solver.max_iter=400", "solver.checkpoint_every=5"]


def train(output, *keys):
    return [
        str(TOOLS / "train_net.py"),
        "--import",
        str(THIN),
        "--config",
        "quickstart.yaml",
        "--output",
        str(output),
        *keys,
    ]


def started(output, *extra, keys=LONG):
    command = [*LAUNCH, "--standalone", "--nproc-per-node=2", *train(output, *extra, *keys)]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def forked(output, *extra, keys=LONG):
    """As :func:`started`, with torchrun's agent and its ranks forked: three interpreters less to start."""
    return Forked(launch, ["--config", "quickstart.yaml", "--output", str(output), *extra, *keys])


def launch(argv):
    config = LaunchConfig(1, 1, 2, run_id="test", rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0)
    config.start_method, config.logs_specs = "fork", DefaultLogsSpecs()
    elastic_launch(config, run_rank)(argv)
    return 0


def run_rank(argv):
    torch.set_num_threads(1)
    output = Path(argv[3])
    output.mkdir(parents=True, exist_ok=True)
    (output / f"rank{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    sys.exit(command_train(argv))


def wait_for(path, step, process):
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        rows = path.read_text().splitlines() if path.exists() else []
        if len(rows) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(
        f"no step {step}: {process.communicate()[1] if process.poll() is not None else 'still running'}"
    )


def rank(number, parent, output):
    """Return the process id of a rank, found by the file it wrote or by its environment variables."""
    written = output / f"rank{number}.pid"
    if written.exists():
        return int(written.read_text())
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            is_child = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and f"RANK={number}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
    raise AssertionError(f"no rank {number}")


def test_killed_rank_stops_all_ranks(tmp_path):
    killed(forked, tmp_path, LONG)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="requires /proc")
def test_resumed_two_ranks_equal_an_uninterrupted_run(tmp_path):
    """Weights, EMA, optimiser and files are equal, with micro-batches and DataLoader workers."""
    keys = [*SMALL, "solver.max_iter=40", "solver.checkpoint_every=5", "solver.batch_size=4", "solver.accumulate=2"]
    keys += ["solver.ema=0.9", "data.workers=2", "solver.steps=[0.5]"]
    alone = started(tmp_path / "alone", keys=keys)
    assert alone.wait() == 0
    killed(started, tmp_path / "killed", keys)
    assert load_file(tmp_path / "killed/last.pth")["global_step"] < 40
    resumed = started(tmp_path / "killed", "--resume", keys=keys)
    assert resumed.wait() == 0
    assert compare(tmp_path / "killed", tmp_path / "alone") == []


def killed(begin, output, keys):
    process = begin(output, keys=keys)
    wait_for(output / "metrics.jsonl", 6, process)
    os.kill(rank(1, process.pid, output), signal.SIGKILL)
    started_at = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - started_at < 40  # torchrun waits 30 s for the other ranks
    assert "exitcode  : -9" in stderr
    assert load_file(output / "last.pth")["global_step"] >= 5


def pretrained(output, keys):
    """A rank's part of a run: the weights it begins with, and how often it pretrains."""
    calls, weights = [], {}
    pretrain = engine.pretrain_on_crops
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes_pretraining, "_STATISTICS_BATCHES", 2)
        patch.setattr(engine, "pretrain_on_crops", lambda *args: calls.append(args[4]) or pretrain(*args))
        patch.setattr(engine, "_fit", lambda model, *_: weights.update(model.state_dict()))
        assert command_train(["--config", "quickstart.yaml", "--output", str(output), *SMALL, *keys]) == 0
    return calls, {name: value.numpy() for name, value in weights.items()}


def test_pretraining_runs_once_and_all_ranks_begin_with_its_weights(tmp_path):
    keys = ["pretrain.iterations=2", "pretrain.crops=8", "pretrain.sizes=[20]", "pretrain.mosaic=40", "pretrain.rois=4"]
    keys += ["model.norm=frozen_bn", "data.val=null"]
    (first, weights), (second, others) = two_ranks(pretrained, tmp_path / "two", keys)
    assert ([str(device) for device in first], second) == (["cpu"], [])
    (alone,), wanted = pretrained(tmp_path / "one", keys)
    assert str(alone) == "cpu"
    assert weights.keys() == others.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.array_equal(weights[name], value), name
        assert np.array_equal(others[name], value), name


def evaluated(weights, output, keys):
    """A rank's part of a classifier's evaluation: the images it reads, and what it returns."""
    read, there = [], LabelledImages.read_for_eval
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelledImages, "read_for_eval", lambda self, i, crop: read.append(i) or there(self, i, crop))
        config = load(ClassifierConfig, "shapes_resnet18", keys, "classifiers")
        return read, classification.evaluate_only(config, weights, output)


def test_a_classifier_is_evaluated_on_each_image_once_and_written_once(tmp_path):
    keys = ["data.val=7", "data.crop=32", "data.workers=0", "network.width=4"]
    config = load(ClassifierConfig, "shapes_resnet18", keys, "classifiers")
    net = build_network(config.network, 6)
    torch.save({"recipe": "torchvision", "model": net.state_dict()}, tmp_path / "net.pth")
    (first, result), (second, nothing) = two_ranks(evaluated, tmp_path / "net.pth", tmp_path / "two", keys)
    assert (sorted(first), sorted(second)) == ([0, 2, 4, 6], [1, 3, 5])
    assert nothing is None
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["metrics.json"]  # no earlier one moved away
    assert result == evaluated(tmp_path / "net.pth", tmp_path / "one", keys)[1]
    assert result == json.loads((tmp_path / "two/metrics.json").read_text())


@pytest.mark.parametrize(
    ("who", "begin"), [("all", forked), ("one", forked), pytest.param("all", started, marks=pytest.mark.slow)]
)
def test_signal_stops_all_ranks_at_the_same_step(tmp_path, who, begin):
    """A signal to the launcher, which forwards it, or to a single rank."""
    process = begin(tmp_path)
    wait_for(tmp_path / "metrics.jsonl", 3, process)
    os.kill(process.pid if who == "all" else rank(1, process.pid, tmp_path), signal.SIGTERM)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "stopped by SIGTERM at step" in stderr
    step = load_file(tmp_path / "last.pth")["global_step"]
    assert step % 10 == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == step


@pytest.fixture
def two_nodes():
    """Yield two connected network namespaces: names, interfaces and addresses."""
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("network namespaces require `ip` and root")
    names = [f"resdet{os.getpid()}{side}" for side in "ab"]
    interfaces = [f"rd{os.getpid() % 10**6}{side}" for side in "ab"]
    addresses = ["10.77.0.1", "10.77.0.2"]

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True)

    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        made = ip("link", "add", interfaces[0], "type", "veth", "peer", "name", interfaces[1])
        if made.returncode:
            pytest.skip(f"virtual interfaces are not permitted here: {made.stderr.strip()}")
        for name, interface, address in zip(names, interfaces, addresses, strict=True):
            ip("link", "set", interface, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", interface)
            ip("-n", name, "link", "set", interface, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, interfaces, addresses, strict=True))
    finally:
        for name in names:
            ip("netns", "del", name)


def test_two_nodes_with_separate_addresses(tmp_path, two_nodes):
    keys = [*SMALL, "solver.max_iter=2"]
    processes = []
    for number, (name, interface, _) in enumerate(two_nodes):
        rendezvous = [
            "--nnodes=2",
            "--nproc-per-node=1",
            f"--node-rank={number}",
            "--master-addr=10.77.0.1",
            "--master-port=29511",
        ]
        command = ["ip", "netns", "exec", name, *LAUNCH, *rendezvous, *train(tmp_path, *keys)]
        env = {**ENV, "GLOO_SOCKET_IFNAME": interface, "TP_SOCKET_IFNAME": interface}
        processes.append(
            subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    stderr = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(stderr)
    assert "2 processes x 1 micro-batches" in (tmp_path / "log.txt").read_text()
    assert load_file(tmp_path / "last.pth")["global_step"] == 2
    assert json.loads((tmp_path / "run.json").read_text())[0]["processes"] == 2
