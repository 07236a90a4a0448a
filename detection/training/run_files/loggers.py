"""Lightning loggers, by name or passed by the user; errors in a logger are reported as warnings and do not end the run."""

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from detection.utils.distributed import is_leader

_LOG = logging.getLogger(__name__)


class GuardedLogger(Logger):
    """Wraps a logger, reports its first error as a warning and then disables it. Only rank 0 logs.

    Args:
        logger: a Lightning logger, or any object with ``log_metrics(metrics, step)``.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self.logger, self.failed = logger, False

    @property
    def name(self) -> str | None:
        return getattr(self.logger, "name", None)

    @property
    def version(self) -> int | str | None:
        return getattr(self.logger, "version", None)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._call("log_metrics", metrics, step=step)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self._call("log_hyperparams", params, *args, **kwargs)

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        self._call("log_graph", *args, **kwargs)

    def save(self) -> None:
        self._call("save")

    def finalize(self, status: str) -> None:
        self._call("finalize", status)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["logger"], name)

    def _call(self, name: str, *args: Any, **kwargs: Any) -> None:
        method: Callable[..., Any] | None = getattr(self.logger, name, None)
        if method is None or self.failed or not is_leader():
            return
        try:
            method(*args, **kwargs)
        except Exception as error:  # third-party code must not end a run
            self.failed = True
            _LOG.warning("%s failed and is disabled: %s", type(self.logger).__name__, error)


def make_loggers(names: Sequence[str], output: Path, additional: Sequence[Any] = ()) -> list[GuardedLogger]:
    """Return guarded loggers: those of ``names``, then ``additional`` ones.

    Args:
        names: tensorboard, wandb or mlflow; each requires the package of that name.
        output: the run's folder, for their local files.
        additional: logger instances.

    Raises:
        ImportError: a logger's package is not installed; says how to install it.
    """
    return [GuardedLogger(logger) for logger in (*(_MAKERS[name](output) for name in names), *additional)]


def check_loggers(names: Sequence[str]) -> None:
    """Check that the loggers' packages are installed, before a run starts.

    Raises:
        ValueError: a package is not installed; says how to install it.
    """
    for name in names:
        try:
            importlib.import_module(name)  # each package has its logger's name
        except ImportError as error:
            raise ValueError(
                f"solver.loggers has {name}, which is not installed ({error}): pip install resdet[{name}]"
            ) from error


def _tensorboard(output: Path) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(str(output), name="tensorboard", version="")


def _wandb(output: Path) -> Any:
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(name=output.name, save_dir=str(output), project="resdet")


def _mlflow(output: Path) -> Any:
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(experiment_name="resdet", run_name=output.name)


_MAKERS: dict[str, Callable[[Path], Any]] = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
