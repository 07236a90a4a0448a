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

import pytest
from runs import SMALL, TOOLS, compare, load

ENV = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
LAUNCH = [sys.executable, "-m", "torch.distributed.run"]
LONG = [*SMALL, "solver.max_iter=400", "solver.checkpoint_every=5"]


def train(output, *keys):
    return [str(TOOLS / "train_net.py"), "--config", "quickstart.yaml", "--output", str(output), *keys]


def started(output, *extra, keys=LONG):
    command = [*LAUNCH, "--standalone", "--nproc-per-node=2", *train(output, *extra, *keys)]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(path, step, process):
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        rows = path.read_text().splitlines() if path.exists() else []
        if len(rows) >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step}: {process.stderr.read() if process.poll() is not None else 'still running'}")


def rank(number, parent):
    """Return the process id of a rank, found by its environment variables."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            is_child = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if is_child and f"RANK={number}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                return int(folder.name)
    raise AssertionError(f"no rank {number}")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="requires /proc")
def test_killed_rank_stops_all_ranks(tmp_path):
    killed(tmp_path, LONG)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="requires /proc")
def test_resumed_two_ranks_equal_an_uninterrupted_run(tmp_path):
    """Weights, EMA, optimiser and files are equal, with micro-batches and DataLoader workers."""
    keys = [*SMALL, "solver.max_iter=40", "solver.checkpoint_every=5", "solver.batch_size=4", "solver.accumulate=2"]
    keys += ["solver.ema=0.9", "data.workers=2", "solver.steps=[0.5]"]
    alone = started(tmp_path / "alone", keys=keys)
    assert alone.wait() == 0
    killed(tmp_path / "killed", keys)
    assert load(tmp_path / "killed/last.pth")["global_step"] < 40
    resumed = started(tmp_path / "killed", "--resume", keys=keys)
    assert resumed.wait() == 0
    assert compare(tmp_path / "killed", tmp_path / "alone") == []


def killed(output, keys):
    process = started(output, keys=keys)
    wait_for(output / "metrics.jsonl", 6, process)
    os.kill(rank(1, process.pid), signal.SIGKILL)
    started_at = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - started_at < 40  # torchrun waits 30 s for the other ranks
    assert "exitcode  : -9" in stderr
    assert load(output / "last.pth")["global_step"] >= 5


@pytest.mark.parametrize("who", ["all", "one"])
def test_signal_stops_all_ranks_at_the_same_step(tmp_path, who):
    """A signal to the launcher, which forwards it, or to a single rank."""
    process = started(tmp_path)
    wait_for(tmp_path / "metrics.jsonl", 3, process)
    if who == "one" and not Path("/proc/self/environ").exists():
        pytest.skip("requires /proc")
    os.kill(process.pid if who == "all" else rank(1, process.pid), signal.SIGTERM)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "stopped by SIGTERM at step" in stderr
    step = load(tmp_path / "last.pth")["global_step"]
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
    assert load(tmp_path / "last.pth")["global_step"] == 2
    assert json.loads((tmp_path / "run.json").read_text())[0]["processes"] == 2
