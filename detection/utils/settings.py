"""What a run changes in its process beyond its own objects: torch's modes and environment variables."""

import contextlib
import os
from collections.abc import Iterator

import torch

# set by a deterministic run, and by Lightning's seed_everything
_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")


@contextlib.contextmanager
def run_settings() -> Iterator[None]:
    """Give torch's modes and the environment variables that a run sets the values that they had before, at the end.

    The modes: deterministic algorithms and cuDNN's flags. TF32 is not among them: no run sets it, and reading it raises
    where the user has set it by torch's newer names.
    """
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    deterministic, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cudnn = torch.backends.cudnn
    flags = (cudnn.deterministic, cudnn.benchmark)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = flags
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def use_deterministic_algorithms() -> None:
    """Refuse operations whose result differs from run to run on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
    torch.use_deterministic_algorithms(True)
