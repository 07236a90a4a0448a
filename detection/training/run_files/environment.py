"""What was run: run.json says of every start of a run the command, versions, the state of the code, the machine."""

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

from detection.utils.atomic_io import replacing
from detection.utils.distributed import world_size

_LOG = logging.getLogger(__name__)
_PACKAGES = (
    "resdet",
    "torch",
    "torchvision",
    "lightning",
    "numpy",
    "albumentations",
    "faster-coco-eval",
    "pycocotools",
)


def write_provenance(path: Path, seed: int, step: int) -> None:
    """Appends this start to the list in ``path``."""
    about = provenance() | {"seed": seed, "step": step}
    earlier: list[Any] = []
    with contextlib.suppress(OSError, ValueError):
        earlier = json.loads(path.read_text())
    with replacing(path) as part:
        part.write_text(json.dumps([*earlier, about], indent=2) + "\n")
    versions = about["versions"]
    _LOG.info(
        "seed %d; resdet %s%s, torch %s, Python %s, on %s",
        seed,
        versions["resdet"] or "not installed",
        f" ({about['git']['commit'][:10]}{', changed' if about['git']['changed'] else ''})" if about["git"] else "",
        versions["torch"],
        versions["python"],
        about["device"],
    )


def provenance() -> dict[str, Any]:
    """Of this process."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    versions["torch"] = torch.__version__  # with the build, which the package's own version lacks
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
    """The commit of a checkout, and whether files differ from it; None where the package is installed as a copy."""

    def ask(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        if not (Path(ask("rev-parse", "--show-toplevel")) / "detection" / "training").samefile(folder):
            return None
        return {
            "commit": ask("rev-parse", "HEAD"),
            "changed": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
