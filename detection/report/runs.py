"""The runs under a folder: what they were, what came out, and how their configurations differ."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from detection.pages.page import asset, render

_MOVED = "earlier-"  # folders of earlier runs, which a new run in the same folder moved aside


def find_runs(folder: Path) -> list[Path]:
    """Return the folders of runs in and below a folder, in order of their names: those with a config.yaml.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    runs = sorted(path.parent for path in folder.rglob("config.yaml") if not path.parent.name.startswith(_MOVED))
    if not runs:
        raise FileNotFoundError(f"{folder} has no runs: no config.yaml in it or below")
    return runs


def read_run(folder: Path, root: Path) -> dict[str, Any]:
    """Return a row about a run; what its files do not say is None.

    Args:
        folder: of the run.
        root: its name is relative to this.
    """
    config = read_config(folder)
    metrics = _json(folder / "metrics.json") or {}
    rows = _rows(folder / "metrics.jsonl")
    evaluations = [row for row in rows if row.get("AP") is not None]
    best = max(evaluations, key=lambda row: row["AP"], default=None)
    starts = _json(folder / "run.json")
    start = starts[0] if isinstance(starts, list) and starts and isinstance(starts[0], dict) else {}
    seconds = [row["seconds"] for row in rows if row.get("seconds") is not None]
    model = config.get("model") if isinstance(config.get("model"), dict) else {}
    last = max((row.get("step") or 0 for row in rows), default=None)
    wanted = config.get("solver", {}).get("max_iter") if isinstance(config.get("solver"), dict) else None
    return {
        "run": str(folder.relative_to(root)) if folder != root else folder.name,
        "architecture": model.get("architecture") if model else None,
        "backbone": model.get("backbone") if model else None,
        "AP": metrics.get("AP"),
        "AP50": metrics.get("AP50"),
        "VOC07_mAP": metrics.get("VOC07_mAP"),
        "best_AP": None if best is None else best["AP"],
        "best_step": None if best is None else best["step"],
        "step": last,
        "steps": wanted if isinstance(wanted, int) else None,
        "seconds_per_step": sorted(seconds)[len(seconds) // 2] if seconds else None,
        "hours": sum(seconds) / len(seconds) * last / 3600 if seconds and last else None,
        "started": start.get("started"),
        "seed": start.get("seed"),
        "commit": ((start.get("git") or {}).get("commit") or "")[:10] or None,
        "page": (folder / "report.html").is_file(),
    }


def read_config(folder: Path) -> dict[str, Any]:
    """Return a run's configuration as it stands in its file, empty where it cannot be read."""
    try:
        content = YAML(typ="safe").load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the values of a configuration by their dotted keys, as JSON."""
    result: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            result |= flatten(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = json.dumps(value, default=str, ensure_ascii=False)
    return result


def differences(configs: Sequence[dict[str, Any]]) -> dict[str, list[str | None]]:
    """Return the keys whose values are not the same in all configurations, with the values; None where one lacks the key."""
    flat = [flatten(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    values = {key: [config.get(key) for config in flat] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def runs_text(rows: Sequence[dict[str, Any]], changed: dict[str, list[str | None]] | None = None) -> str:
    """Return the table of runs for a terminal, and what differs in their configurations."""
    width = max(100, 40 + max((len(row["run"]) for row in rows), default=0))
    console = Console(width=width, record=True, file=io.StringIO(), markup=False, emoji=False, highlight=False)
    shown = ("AP", "AP50", "VOC07_mAP", "best_AP", "best_step", "step", "hours", "backbone", "started")
    table = Table("run", *shown)
    for row in rows:
        table.add_row(row["run"], *(_text(row[key]) for key in shown))
    console.print(table)
    if changed is not None:
        other = Table("configuration", *(row["run"] for row in rows))
        for key, values in changed.items():
            other.add_row(key, *("-" if value is None else value for value in values))
        console.print(other if changed else "the configurations are equal")
    return console.export_text()


def runs_page(rows: Sequence[dict[str, Any]], configs: Sequence[dict[str, Any]], root: Path) -> str:
    """Return the page of the runs, in which any two can be compared."""
    data = {"root": str(root), "runs": list(rows), "configs": [flatten(config) for config in configs]}
    return render(f"runs in {root}", data, scripts=[asset("runs.js", "detection.report")])


def runs_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as CSV."""
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return lines.getvalue()


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _rows(path: Path) -> list[dict[str, Any]]:
    result = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the last one, of a run that is writing it
        if isinstance(row, dict):
            result.append(row)
    return result
