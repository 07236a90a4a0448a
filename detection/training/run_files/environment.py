"""Provenance of a run: run.json records command, versions, git commit and machine for each start of the run."""

import contextlib
import json
import logging
import platform
import shlex
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from detection.utils.atomic_io import write_json
from detection.utils.distributed import world_size

_LOG = logging.getLogger(__name__)
_PACKAGES = (
    "resdet",
    "torch",
    "torchvision",
    "lightning",
    "numpy",
    "albumentations",
    "hotcoco",
    "pycocotools",
)


def write_provenance(path: Path, seed: int, step: int) -> None:
    """Append this start to the list in ``path``, with its seed and first step."""
    entry = provenance() | {"seed": seed, "step": step}
    earlier: list[Any] = []
    with contextlib.suppress(OSError, ValueError):
        earlier = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, [*earlier, entry])
    versions = entry["versions"]
    _LOG.info(
        "seed %d; resdet %s%s, torch %s, Python %s, on %s",
        seed,
        versions["resdet"] or "not installed",
        f" ({entry['git']['commit'][:10]}{', changed' if entry['git']['changed'] else ''})" if entry["git"] else "",
        versions["torch"],
        versions["python"],
        entry["device"],
    )


def provenance() -> dict[str, Any]:
    """Return the provenance of this process: command, versions, git commit, machine."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    versions["torch"] = torch.__version__  # with the build (+cu126), which the package metadata lacks
    on_gpu = torch.cuda.is_available()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "folder": str(Path.cwd()),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name()
        if on_gpu
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "processes": world_size(),
        "versions": versions,
        "git": _git(Path(__file__).parents[1]),
    }


def _git(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a checkout and whether files differ from it; None if the package is not in a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        if not (Path(git("rev-parse", "--show-toplevel")) / "detection" / "training").samefile(folder):
            return None
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
