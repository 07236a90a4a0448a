"""Resuming a run: its newest checkpoint that is whole, and what may differ from the configuration that it began with."""

import dataclasses
import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detection.checkpoint.metadata import KEY, Classes, parse_metadata
from detection.config import Config
from detection.utils.distributed import is_leader

_LOG = logging.getLogger(__name__)
_DAMAGE = ("PytorchStreamReader", "zip", "corrupt", "magic number", "Unpickler")  # in torch's messages
# how long a run is: a change lengthens it
LENGTH = {"max_iter", "steps"}
# what may differ in a resumed run: it changes what is evaluated and written, not what is computed
MAY_CHANGE = LENGTH | {
    *("cuda_graphs", "eval_every", "val_loss", "checkpoint_every", "early_stop", "log_every", "not_finite", "loggers"),
}


@dataclass(frozen=True)
class Resumed:
    """Where a run is resumed.

    Attributes:
        step: of its checkpoint.
        lengthened: whether it is to be longer than it was begun.
        finished: why there is nothing to do; empty where there is.
    """

    step: int
    lengthened: bool
    finished: str


def last_checkpoint(output: Path) -> Path | None:
    """Return the newest checkpoint that is whole, or None, with a warning, where there is none. A damaged one is renamed to
    .damaged.

    Raises:
        ValueError: there are checkpoints, all of them damaged.
    """
    damaged = []
    for checkpoint in (output / "last.pth", output / "previous.pth"):
        if not checkpoint.exists():
            continue
        try:
            torch.load(checkpoint, map_location="cpu", weights_only=True)  # all of it, so that a hole is found
        except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in _DAMAGE):
                raise  # no memory, say: nothing is wrong with the file
            renamed = checkpoint.with_name(checkpoint.name + ".damaged")
            _LOG.warning(
                "%s is damaged and is renamed to %s: %s", checkpoint, renamed.name, str(error).partition("\n")[0]
            )
            damaged.append(renamed)
            if is_leader():
                checkpoint.replace(renamed)
        else:
            if damaged:
                _LOG.warning("resuming from %s, the newest checkpoint that is whole", checkpoint)
            return checkpoint
    damaged = damaged or sorted(output.glob("*.pth.damaged"))
    if damaged:
        raise ValueError(
            f"--resume: no checkpoint in {output} is whole; {', '.join(map(str, damaged))} cannot be read. Start again "
            "without --resume, or from the weights of best.pth with --weights"
        )
    _LOG.warning("--resume: there is no %s, the run begins at step 0", output / "last.pth")
    return None


def check_resume(checkpoint: Path, config: Config, classes: Classes) -> Resumed:
    """Return where a detector's run is resumed.

    Raises:
        ValueError: the checkpoint is of another model, other classes, another solver or a longer run.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    if KEY not in content:
        raise ValueError(f"{checkpoint} is no training checkpoint of a detector (it lacks the entry {KEY!r})")
    metadata = parse_metadata(content[KEY], str(checkpoint))
    classes.check(metadata.classes, "the data", str(checkpoint))
    before = metadata.config(str(checkpoint))
    advice = f"resume with the configuration of its run, {checkpoint.parent / 'config.yaml'}"
    # neither changes what is computed from the checkpoint on
    models = [dataclasses.replace(c.model, weights=None, padded=None) for c in (before, config)]
    if models[0] != models[1]:
        raise ValueError(f"{checkpoint} is of another model; {advice}")
    changed = [key for key, value in vars(config.solver).items() if vars(before.solver)[key] != value]
    refused = [key for key in changed if key not in MAY_CHANGE]
    if refused:
        # the state of optimiser and schedule would silently win over the new values
        raise ValueError(f"{checkpoint} was trained with another solver.{refused[0]}; {advice}")
    if (before.data, before.seed) != (config.data, config.seed):
        _LOG.warning("data or seed differ from those that %s was begun with: the run will not repeat", checkpoint)
    return resumed(
        content, checkpoint, config.solver.max_iter, config.solver.early_stop, lengthened=bool(LENGTH & {*changed})
    )


def resumed(
    content: dict[str, Any], checkpoint: Path, max_iter: int, early_stop: int | None, lengthened: bool
) -> Resumed:
    """Return where a run is resumed from the content of its checkpoint.

    Raises:
        ValueError: the run is beyond ``max_iter`` already.
    """
    step = int(content["global_step"])
    if step > max_iter:
        raise ValueError(f"{checkpoint} is at step {step} already, and solver.max_iter is {max_iter}")
    evaluations = content.get("callbacks", {}).get("Evaluation")
    finished = ""
    if not lengthened and evaluations is not None and evaluations["done_at"] == step:
        longer = "lengthen it with --resume solver.max_iter=N"
        if step == max_iter:
            finished = f"the run is finished at step {step}; {longer}"
        elif early_stop is not None and evaluations["without_gain"] >= early_stop:
            finished = (
                f"the run is finished: it stopped early at step {step}, after {evaluations['without_gain']} evaluations "
                f"without a better one; {longer}, or raise solver.early_stop"
            )
    if not finished:
        _LOG.info("resuming from %s at step %d%s", checkpoint, step, f", now to {max_iter}" if lengthened else "")
    return Resumed(step, lengthened, finished)
