"""``resdet degradation``: do deeper networks train worse (section 4.2, figure 6)? One recipe, several networks and seeds,
each a run of ``resdet train-classifier`` in a process of its own, and their errors over the steps in one picture."""

import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from detection.classification.config import ClassifierConfig
from detection.classification.plots import Curve
from detection.config import dump_config
from detection.training.callbacks.metrics_log import read_rows
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
PAPER = ("cifar_plain20", "cifar_plain56", "cifar_resnet20", "cifar_resnet56")
_POLL, _LOOK = 0.5, 10  # seconds between looks at the processes; looks between readings of their logs


@dataclass(frozen=True)
class Run:
    """One network's training from one seed, and where it lies."""

    network: str
    seed: int
    folder: Path
    config: ClassifierConfig

    def rows(self) -> list[dict[str, Any]]:
        """The lines of its log so far."""
        return read_rows(self.folder / "metrics.jsonl")

    def step(self) -> int:
        """The last logged."""
        rows = self.rows()
        return int(rows[-1]["step"]) if rows else 0

    def finished(self) -> bool:
        """Whether it has been judged at its end."""
        return any("top1" in row and row["step"] == self.config.solver.max_iter for row in self.rows())


def train_all(runs: Sequence[Run], jobs: int) -> None:
    """Trains what is not finished, ``jobs`` at a time; each run resumes from its last checkpoint.

    Raises:
        ValueError: a folder holds a run of another configuration, or a run failed; the others then end too and can go on.
    """
    for run in runs:
        saved = run.folder / "config.yaml"
        if saved.exists() and saved.read_text() != dump_config(run.config):
            raise ValueError(
                f"{run.folder} holds a run of another configuration; give another --output, or the keys that it was made "
                "with"
            )
    waiting = [run for run in runs if not run.finished()]
    if len(waiting) < len(runs):
        _LOG.info("%d of %d runs are finished already", len(runs) - len(waiting), len(runs))
    threads = max((os.cpu_count() or 1) // jobs, 1)
    total = sum(run.config.solver.max_iter for run in runs)
    going: dict[Run, subprocess.Popen[bytes]] = {}
    try:
        with progress_bar() as bar:
            task, looks = bar.add_task("training", total=total), 0
            while waiting or going:
                while waiting and len(going) < jobs:
                    run = waiting.pop(0)
                    _LOG.info("%s, seed %d: run %d of %d", run.network, run.seed, runs.index(run) + 1, len(runs))
                    going[run] = _start(run, threads)
                time.sleep(_POLL)
                for run, process in list(going.items()):
                    if process.poll() is not None:
                        del going[run]
                        _check(run, process.returncode)
                looks += 1
                if looks % _LOOK == 0 or not going:
                    bar.update(task, completed=sum(run.step() for run in runs))
    finally:
        for process in going.values():
            process.terminate()
        for process in going.values():
            process.wait()


def _start(run: Run, threads: int) -> "subprocess.Popen[bytes]":
    run.folder.mkdir(parents=True, exist_ok=True)
    wanted = run.folder / "wanted.yaml"
    wanted.write_text(dump_config(run.config))
    command = [
        sys.executable,
        "-m",
        "detection",
        "train-classifier",
        "--config",
        str(wanted),
        "--output",
        str(run.folder),
    ]
    if (run.folder / "last.pth").exists():
        command.append("--resume")
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with (run.folder / "screen.txt").open("ab") as screen:
        return subprocess.Popen(command, stdout=screen, stderr=subprocess.STDOUT, env=environment)


def _check(run: Run, code: int) -> None:
    screen = run.folder / "screen.txt"
    if code:
        last = "\n  ".join(screen.read_text(errors="replace").splitlines()[-5:])
        raise ValueError(f"{run.network}, seed {run.seed}, ended with code {code}; the end of {screen}:\n  {last}")
    screen.unlink()
    (run.folder / "wanted.yaml").unlink()  # the run's own config.yaml says the same


def curves(runs: Sequence[Run]) -> list[Curve]:
    """The errors of each run over its steps."""
    found = []
    for run in runs:
        rows = run.rows()
        training = [(row["step"], 1 - row["train_top1"]) for row in rows if row.get("train_top1") is not None]
        testing = [(row["step"], 1 - row["top1"]) for row in rows if row.get("top1") is not None]
        found.append(Curve(run.network, run.seed, training, testing))
    return found


def summarise(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """network -> training and test error at the end of each seed's run, and their medians.

    The training error is that of the last tenth of the steps, on augmented pictures and before each update.
    """
    summary: dict[str, dict[str, Any]] = {}
    for run, curve in zip(runs, curves(runs), strict=True):
        late = [error for step, error in curve.training if step > 0.9 * run.config.solver.max_iter]
        entry = summary.setdefault(run.network, {"seeds": [], "train_error": [], "test_error": []})
        entry["seeds"].append(run.seed)
        entry["train_error"].append(statistics.fmean(late or [error for _, error in curve.training[-1:]]))
        entry["test_error"].append(curve.testing[-1][1])
    for entry in summary.values():
        for key in ("train_error", "test_error"):
            entry[f"median_{key}"] = statistics.median(entry[key])
    return summary


def show(summary: dict[str, dict[str, Any]]) -> None:
    drawn = Table("network", *(f"{kind} error: median (lowest to highest)" for kind in ("training", "test")))
    for name, entry in summary.items():
        cells = (
            f"{entry[f'median_{key}']:.3f} ({min(entry[key]):.3f} to {max(entry[key]):.3f})"
            for key in ("train_error", "test_error")
        )
        drawn.add_row(name, *cells)
    Console(width=None if Console().is_terminal else 120).print(drawn)
