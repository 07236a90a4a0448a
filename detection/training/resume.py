"""Training checkpoints to resume from: the newest whole one, and whether it is of this run."""

import dataclasses
import logging
import os
import pickle
from pathlib import Path

import torch

from detection.checkpoint.detector import CARD, Classes
from detection.config import Config, config_from_dict

_LOG = logging.getLogger(__name__)

_DAMAGE = ("PytorchStreamReader", "zip", "corrupt", "magic number", "Unpickler")  # in torch's messages


# what may differ in a resumed run: it changes what is looked at, not what is computed
MAY_CHANGE = {"cuda_graphs", "eval_every", "val_loss", "checkpoint_every", "early_stop", "log_every", "not_finite"}


def last_checkpoint(output: Path) -> Path | None:
    """The newest training state that is whole, or None, with a warning, where there is none. A damaged one is set aside.

    Raises:
        ValueError: there are states, all of them damaged.
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
            _LOG.warning("%s is damaged and is set aside: %s", checkpoint, str(error).partition("\n")[0])
            aside = checkpoint.with_name(checkpoint.name + ".damaged")
            damaged.append(aside)
            if int(os.environ.get("RANK", 0)) == 0:
                checkpoint.replace(aside)
        else:
            if damaged:
                _LOG.warning("going on from %s, the newest state that is whole", checkpoint)
            return checkpoint
    damaged = damaged or sorted(output.glob("*.pth.damaged"))
    if damaged:
        raise ValueError(
            f"--resume: no state in {output} is whole; {', '.join(map(str, damaged))} cannot be read. Start again without "
            "--resume, or from the weights of best.pth with --weights"
        )
    _LOG.warning("--resume: there is no %s, the run begins at step 0", output / "last.pth")
    return None


def check_resume(checkpoint: Path, config: Config, classes: Classes) -> int:
    """The step to go on from.

    Raises:
        ValueError: the checkpoint is of another model, other classes or another solver.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    about = content[CARD]
    classes.check(Classes(tuple(about["classes"]), tuple(about["category_ids"])), "the data", str(checkpoint))
    before = config_from_dict(about["config"], str(checkpoint))
    advice = f"resume with the configuration of its run, {checkpoint.parent / 'config.yaml'}"
    if dataclasses.replace(before.model, weights=None) != dataclasses.replace(config.model, weights=None):
        raise ValueError(f"{checkpoint} is of another model; {advice}")
    ours, theirs = vars(config.solver), vars(before.solver)
    changed = [key for key in ours if key not in MAY_CHANGE and theirs[key] != ours[key]]
    if changed:
        # the state of optimiser and schedule would silently win over the new values
        raise ValueError(f"{checkpoint} was trained with another solver.{changed[0]}; {advice}")
    if (before.data, before.seed) != (config.data, config.seed):
        _LOG.warning("data or seed differ from those that %s was begun with: the run will not repeat", checkpoint)
    step = int(content["global_step"])
    _LOG.info("resuming from %s at step %d", checkpoint, step)
    return step
