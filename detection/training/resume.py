"""Resume a run: find its newest valid checkpoint, and check which settings may differ from those it was started with."""

import dataclasses
import logging
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detection.checkpoint.metadata import KEY, Classes, parse_metadata
from detection.config import Config
from detection.utils.distributed import is_leader

_LOG = logging.getLogger(__name__)
_DAMAGE_SIGNS = ("PytorchStreamReader", "zip", "corrupt", "magic number", "Unpickler")  # in torch's messages
# solver settings of the run's length; changing them extends the run
LENGTH = {"max_iter", "steps"}
# solver settings that may differ in a resumed run: they change what is evaluated and written, not the training
MAY_CHANGE = LENGTH | {
    *(
        "cuda_graphs",
        "eval_every",
        "val_loss",
        "checkpoint_every",
        "checkpoint_trunk",
        "early_stop",
        "log_every",
        "not_finite",
        "loggers",
    ),
}
# data settings that change nothing: how images are loaded
LOADING = {"data.workers", "data.timeout", "data.cache"}


@dataclass(frozen=True)
class Resumed:
    """The point from which a run is resumed.

    Attributes:
        step: of its checkpoint.
        lengthened: whether the run's length was changed.
        finished: why the run is finished; empty if it is not.
    """

    step: int
    lengthened: bool
    finished: str


NEW_RUN = Resumed(step=0, lengthened=False, finished="")


def last_checkpoint(output: Path) -> Path | None:
    """Return the newest valid training checkpoint, or None with a warning if there is none. Damaged ones are renamed to
    .damaged.

    Raises:
        ValueError: all checkpoints are damaged.
    """
    damaged = []
    for checkpoint in (output / "last.pth", output / "previous.pth"):
        if not checkpoint.exists():
            continue
        try:
            torch.load(
                checkpoint, map_location="cpu", weights_only=True
            )  # reads the whole file, to detect damage anywhere
        except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _DAMAGE_SIGNS):
                raise  # out of memory, for example: the file is not damaged
            renamed = checkpoint.with_name(checkpoint.name + ".damaged")
            _LOG.warning(
                "%s is damaged and was renamed to %s: %s", checkpoint, renamed.name, str(error).partition("\n")[0]
            )
            damaged.append(renamed)
            if is_leader():
                checkpoint.replace(renamed)
        else:
            if damaged:
                _LOG.warning("resuming from %s, the newest valid checkpoint", checkpoint)
            return checkpoint
    damaged = damaged or sorted(output.glob("*.pth.damaged"))
    if damaged:
        raise ValueError(
            f"--resume: no valid checkpoint in {output}; {', '.join(map(str, damaged))} cannot be read. Start again "
            "without --resume, or from the weights of best.pth with --weights"
        )
    _LOG.warning("--resume: no %s found, the run starts at step 0", output / "last.pth")
    return None


def check_resume(checkpoint: Path, config: Config, classes: Classes) -> Resumed:
    """Check a checkpoint against a detector's configuration, and return where its run is resumed.

    Raises:
        ValueError: model, classes or solver differ, or the checkpoint is beyond ``solver.max_iter``.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    if KEY not in content:
        raise ValueError(f"{checkpoint} is not a training checkpoint of a detector (no entry {KEY!r})")
    metadata = parse_metadata(content[KEY], str(checkpoint))
    classes.check(metadata.classes, "the data", str(checkpoint))
    previous = metadata.config(str(checkpoint))
    advice = f"resume with the configuration of its run, {checkpoint.parent / 'config.yaml'}"
    # neither weights nor padded changes the training after the checkpoint
    models = [dataclasses.replace(c.model, weights=None, padded=None) for c in (previous, config)]
    if models[0] != models[1]:
        raise ValueError(f"{checkpoint} was trained with another model; {advice}")
    changed = [key for key, value in vars(config.solver).items() if vars(previous.solver)[key] != value]
    fixed = [key for key in changed if key not in MAY_CHANGE]
    if fixed:
        # the checkpoint's optimiser and schedule states would silently override the new values
        raise ValueError(f"{checkpoint} was trained with another solver.{fixed[0]}; {advice}")
    warn_of_changes(
        [f"data.{key}" for key, value in vars(config.data).items() if vars(previous.data)[key] != value]
        + ["seed"] * (previous.seed != config.seed),
        checkpoint,
    )
    return resume_point(
        content, checkpoint, config.solver.max_iter, config.solver.early_stop, lengthened=bool(LENGTH & {*changed})
    )


def warn_of_changes(keys: Iterable[str], checkpoint: Path) -> None:
    """Warn of the keys, other than of the solver and the model, by which a resumed run differs from an uninterrupted one."""
    if changed := [key for key in keys if key not in LOADING]:
        _LOG.warning(
            "%s differ from the configuration of %s: the resumed run will not equal an uninterrupted one",
            ", ".join(changed),
            checkpoint,
        )


def resume_point(
    content: dict[str, Any], checkpoint: Path, max_iter: int, early_stop: int | None, lengthened: bool
) -> Resumed:
    """Return where a run is resumed, from the content of its checkpoint.

    Raises:
        ValueError: the checkpoint is beyond ``max_iter``.
    """
    step = int(content["global_step"])
    if step > max_iter:
        raise ValueError(f"{checkpoint} is already at step {step}, and solver.max_iter is {max_iter}")
    evaluation = content.get("callbacks", {}).get("Evaluation")
    finished = ""
    if not lengthened and evaluation is not None and evaluation["done_at"] == step:
        advice = "extend it with --resume solver.max_iter=N"
        if step == max_iter:
            finished = f"the run is finished at step {step}; {advice}"
        elif early_stop is not None and evaluation["without_gain"] >= early_stop:
            finished = (
                f"the run is finished: it stopped early at step {step}, after {evaluation['without_gain']} evaluations "
                f"without improvement; {advice}, or raise solver.early_stop"
            )
    if not finished:
        _LOG.info(
            "resuming from %s at step %d%s", checkpoint, step, f", extended to {max_iter} steps" if lengthened else ""
        )
    return Resumed(step, lengthened, finished)
