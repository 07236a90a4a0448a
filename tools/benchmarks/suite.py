"""Train datasets x configurations x seeds and tabulate the results; the library of ``tools/suite.py``.

A YAML list names the datasets, configurations and seeds; nothing is downloaded. Each run has the folder
OUTPUT/SET/CONFIGURATION/seed-N, with a result.json when it is finished, so that an interrupted suite can be resumed.
"""

import csv
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from detection.config import load_config
from detection.training.run_files.run_dir import move_earlier_run
from detection.utils.atomic_io import replacing, write_json, write_text
from detection.utils.errors import optional
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
METRICS = ("AP", "AP50")
_RESULT, _POLL_SECONDS = "result.json", 0.2


@dataclass(frozen=True)
class SetEntry:
    """A dataset of the suite.

    Attributes:
        keys: key=value entries of the dataset; a relative data.root is under the suite's root.
        held_back: held out from tuning; runs only with --held-back.
        about: description and source.
    """

    keys: tuple[str, ...]
    held_back: bool = False
    about: str = ""


@dataclass(frozen=True)
class ConfigurationEntry:
    """A configuration of the suite.

    Attributes:
        config: name or file of the configuration.
        keys: key=value entries that override it.
        peer: train torchvision's detector of this architecture ("c4", "fpn") with torchvision's recipe instead; config gives
            the dataset, steps and weights.
        sets, seeds: limit to these; empty for the suite's.
    """

    config: str
    keys: tuple[str, ...] = ()
    peer: str = ""
    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A list of runs.

    Attributes:
        sets, configurations: by name.
        seeds: of each configuration without its own.
        keys: key=value entries of all runs.
        baseline: the configuration to which ratios are computed; "" for none.
    """

    sets: dict[str, SetEntry]
    configurations: dict[str, ConfigurationEntry]
    seeds: tuple[int, ...] = (0, 1, 2)
    keys: tuple[str, ...] = ()
    baseline: str = ""


@dataclass(frozen=True)
class Job:
    """One run, with everything that its result depends on."""

    set: str
    configuration: str
    seed: int
    config: str
    keys: tuple[str, ...]
    peer: str = ""
    folder: str = field(default="", compare=False)

    def result(self) -> dict[str, Any] | None:
        """Return the run's result; None where it is not finished, or belongs to a different job."""
        path = Path(self.folder) / _RESULT
        if not path.exists():
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content if Job(**{**content["job"], "keys": tuple(content["job"]["keys"])}) == self else None


def read_suite(path: Path) -> Suite:
    """Read a list.

    Raises:
        ValueError: unknown keys or values of another type, each named.
    """
    tree = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    try:
        return TypeAdapter(Suite).validate_python(tree)
    except ValidationError as error:
        messages = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors())
        raise ValueError(f"{path}: {messages}") from None


def jobs(suite: Suite, root: Path, output: Path, *, held_back: bool, only: Sequence[str] = ()) -> list[Job]:
    """Return all runs of a list, ordered by seed.

    Args:
        suite: the list.
        root: parent of relative data.root entries.
        output: folder of the results.
        held_back: return the held-out datasets instead of the others.
        only: names of datasets or configurations; empty for all.

    Raises:
        ValueError: a name that is not in the list.
    """
    known = {*suite.sets, *suite.configurations}
    requested = {*only, *(s for c in suite.configurations.values() for s in c.sets)}
    if unknown := sorted(requested - known):
        raise ValueError(f"not in the list: {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    sets, configurations = (
        [n for n in names if n in only or not {*names} & {*only}] for names in (suite.sets, suite.configurations)
    )
    seeds = list(dict.fromkeys(s for n in configurations for s in (suite.configurations[n].seeds or suite.seeds)))
    return [
        Job(
            set=name,
            configuration=label,
            seed=seed,
            config=entry.config,
            keys=(*suite.keys, *(_resolve_root(key, root) for key in suite.sets[name].keys), *entry.keys),
            peer=entry.peer,
            folder=str(output / name / label / f"seed-{seed}"),
        )
        for seed in seeds
        for label in configurations
        for name in sets
        if (entry := suite.configurations[label])
        and seed in (entry.seeds or suite.seeds)
        and (not entry.sets or name in entry.sets)
        and suite.sets[name].held_back == held_back
    ]


def _resolve_root(key: str, root: Path) -> str:
    """Make a data.root entry relative to ``root``; return other entries unchanged."""
    name, separator, value = key.partition("=")
    return f"{name}={root / value}" if separator and name == "data.root" else key


def run_job(job: Job) -> dict[str, Any]:
    """Train and evaluate in this process; write and return the contents of result.json.

    A run that fails has a result too: ``error`` is its message, ``diverged`` whether the loss was non-finite.
    """
    # these import torch and Lightning, which the table does without
    from detection.training.replay import NonFiniteLossError
    from detection.training.run import train_config

    folder = Path(job.folder)
    config = load_config(job.config, [*job.keys, f"seed={job.seed}"])
    job_fields = asdict(job) | {"keys": list(job.keys)}
    result: dict[str, Any] = {"job": job_fields, "diverged": False, "recoveries": 0, "warnings": 0, "error": ""}
    start = time.perf_counter()
    try:
        if job.peer:
            from benchmarks import torchvision_recipe

            metrics: Any = torchvision_recipe.train(config, folder, job.peer)
        else:
            metrics = train_config(config, folder, resume=(folder / "last.pth").exists(), config_name=job.config) or {}
        result |= {name: metrics.get(name) for name in (*METRICS, "AP75")}
    except (ValueError, OSError) as error:
        result["error"] = str(error)
        result["diverged"] = isinstance(error, NonFiniteLossError) or str(error).startswith("loss is")
    result["minutes"] = (time.perf_counter() - start) / 60
    if (folder / "run.json").exists():
        events = json.loads((folder / "run.json").read_text(encoding="utf-8"))[-1].get("events", [])
        result["recoveries"] = sum(event["kind"].startswith("recovered") for event in events)
        result["warnings"] = len(events) - result["recoveries"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _RESULT, result)
    return result


def run_all(pending: Sequence[Job], parallel: int) -> None:
    """Run each job in its own process, ``parallel`` at a time.

    Raises:
        RuntimeError: a process exited without a result; the others are terminated and can be resumed.
    """
    threads = max((os.cpu_count() or 1) // parallel, 1)
    queue = list(pending)
    running: dict[Job, subprocess.Popen[bytes]] = {}
    program = Path(__file__).parents[1] / "suite.py"
    with progress_bar() as bar:
        task = bar.add_task("runs", total=len(queue))
        try:
            while queue or running:
                while queue and len(running) < parallel:
                    job = queue.pop(0)
                    Path(job.folder).mkdir(parents=True, exist_ok=True)
                    with (Path(job.folder) / "output.txt").open("ab") as out:
                        running[job] = subprocess.Popen(
                            [sys.executable, str(program), "--job", json.dumps(asdict(job))],
                            stdout=out,
                            stderr=subprocess.STDOUT,
                            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                        )
                time.sleep(_POLL_SECONDS)
                for job in [j for j, process in running.items() if process.poll() is not None]:
                    process, result = running.pop(job), job.result()
                    if result is None:
                        raise RuntimeError(
                            f"a run exited with code {process.returncode} and no result: see {job.folder}/output.txt"
                        )
                    bar.advance(task)
                    _LOG.info("%s", _summary(result))
        finally:
            for process in running.values():
                process.terminate()


def _summary(result: dict[str, Any]) -> str:
    job = result["job"]
    outcome = result["error"][:160] or "  ".join(f"{name} {_number(result[name])}" for name in METRICS)
    return f"{job['set']} {job['configuration']} seed {job['seed']}: {outcome}  ({result['minutes']:.1f} min)"


def rows(results: Sequence[dict[str, Any]], baseline: str = "") -> Iterator[dict[str, Any]]:
    """Yield a row per dataset and configuration: medians and ranges over seeds, ratios of AP to the baseline's median.

    Args:
        results: of the runs.
        baseline: name of a configuration, or "" for none.
    """
    by_cell: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        by_cell.setdefault((result["job"]["set"], result["job"]["configuration"]), []).append(result)
    medians = {cell: _median(cell_results, "AP") for cell, cell_results in by_cell.items()}
    for (name, label), cell_results in by_cell.items():
        row: dict[str, Any] = {"set": name, "configuration": label, "seeds": len(cell_results)}
        for metric in METRICS:
            values = [r[metric] for r in cell_results if r.get(metric) is not None]
            row |= {metric: _median(cell_results, metric)}
            row |= {f"{metric} low": min(values, default=None), f"{metric} high": max(values, default=None)}
        base = medians.get((name, baseline))
        row["ratio"] = row["AP"] / base if base and row["AP"] is not None else None
        row["minutes"] = statistics.median(r["minutes"] for r in cell_results)
        row["diverged"] = sum(r["diverged"] for r in cell_results)
        row["recoveries"] = sum(r["recoveries"] for r in cell_results)
        row["warnings"] = sum(r["warnings"] for r in cell_results)
        row["errors"] = sum(bool(r["error"]) and not r["diverged"] for r in cell_results)
        yield row


def _median(results: Sequence[dict[str, Any]], metric: str) -> float | None:
    """Return the median of a metric over runs; a run without a value (diverged) counts as 0."""
    return statistics.median(r.get(metric) or 0.0 for r in results) if results else None


def write_table(results: Sequence[dict[str, Any]], output: Path, baseline: str = "") -> str:
    """Write suite.csv, suite.md and suite.png to ``output``, where earlier ones are moved to a subfolder; return the
    Markdown table."""
    table = list(rows(results, baseline))
    move_earlier_run(output, ("suite.csv", "suite.md", "suite.png"))
    with replacing(output / "suite.csv") as temp, temp.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]) if table else ["set"])
        writer.writeheader()
        writer.writerows(table)
    lines = [
        "| set | configuration | seeds | AP | AP50 | ratio of AP | minutes | diverged | recoveries | warnings |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        ranges = [
            f"{_number(row[m])} ({_number(row[f'{m} low'])} to {_number(row[f'{m} high'])})" if row["seeds"] > 1 else
            _number(row[m])
            for m in METRICS
        ]  # fmt: skip
        counts = [str(row[k]) for k in ("diverged", "recoveries", "warnings")]
        ratio, minutes = "" if row["ratio"] is None else f"{row['ratio']:.2f}", f"{row['minutes']:.1f}"
        cells = [row["set"], row["configuration"], str(row["seeds"]), *ranges, ratio, minutes, *counts]
        lines.append("| " + " | ".join(cells) + " |")
    ratios = {
        label: [r["ratio"] for r in table if r["configuration"] == label and r["ratio"] is not None]
        for label in dict.fromkeys(r["configuration"] for r in table)
    }
    lines += [""] + [
        f"{label}: median ratio {statistics.median(v):.2f} over {len(v)} datasets ({min(v):.2f} to {max(v):.2f})"
        for label, v in ratios.items()
        if v and label != baseline
    ]
    text = "\n".join(lines) + "\n"
    write_text(output / "suite.md", text)
    with optional(output / "suite.png"):
        _plot(table, output / "suite.png")
    return text


def _plot(table: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the median AP of each dataset and configuration, with its range over the seeds as an error bar."""
    sets = list(dict.fromkeys(row["set"] for row in table))
    labels = list(dict.fromkeys(row["configuration"] for row in table))
    figure = Figure(figsize=(max(6.0, 1.2 * len(sets) + 2), 4.5), layout="constrained")
    axes = figure.subplots()
    for k, label in enumerate(labels):
        label_rows = [row for row in table if row["configuration"] == label and row["AP"] is not None]
        x = [sets.index(row["set"]) + (k - (len(labels) - 1) / 2) * 0.7 / len(labels) for row in label_rows]
        low = [row["AP"] - (row["AP low"] if row["AP low"] is not None else row["AP"]) for row in label_rows]
        high = [(row["AP high"] if row["AP high"] is not None else row["AP"]) - row["AP"] for row in label_rows]
        errors = [[max(v, 0.0) for v in low], [max(v, 0.0) for v in high]]
        axes.errorbar(x, [row["AP"] for row in label_rows], yerr=errors, fmt="o", markersize=5, capsize=2, label=label)
    axes.set_xticks(range(len(sets)), sets, rotation=30, ha="right")
    axes.set_ylabel("AP (median and range over seeds)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize="small")
    with replacing(path) as temp:
        figure.savefig(temp, dpi=120, format="png")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
