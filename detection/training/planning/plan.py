"""``resdet train FOLDER``: a configuration for a folder of data, every setting with its reason."""

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backbone.hub import cached_file, is_name
from detection.config import Config, DataConfig, dump_config, load_config
from detection.data.annotations import DataError, first_few, why_nothing_to_train_on
from detection.data.loader import TrainSet
from detection.data.opening import Source, open_source
from detection.data.recognise import AUTO, find_data, recognise
from detection.training.auto import resolve
from detection.training.planning.choices import SMALL_CONFIG, Choice, choose
from detection.training.planning.facts import DataFacts, Machine, data_facts, this_machine
from detection.training.planning.timing import in_words, seconds_per_step

_SPLIT = "0.2"  # of the images, to validate on
_GIVEN = "given"
_LONG = 1800.0  # seconds; longer runs come with advice for a quick try
# what else there is where weights cannot be downloaded, as keys, and what it is
SHAPES = "resdet train --config quickstart.yaml 'model.anchors.aspect_ratios=[0.5,1,2]' --output output/shapes"
WITHOUT_WEIGHTS = (
    ("model.weights=FILE", "weights from elsewhere"),
    (
        "model.weights=output/shapes/best.pth",
        f"what synthetic shapes teach in minutes, far less than ImageNet's weights; before it: {SHAPES}",
    ),
    ("model.weights=null model.norm=bn model.freeze_at=0", "random weights: many times the steps"),
)


@dataclass(frozen=True)
class Plan:
    """A configuration for a folder of data.

    Attributes:
        folder: of the data.
        choices: settings with their reasons; the first names the configuration that the others change.
        config: all settings together, each ``auto`` replaced by its value.
        facts: of the training set.
        machine: that it is for.
        source: the sets, read.
        seconds: of the training steps, as measured; None where they were not.
    """

    folder: Path
    choices: tuple[Choice, ...]
    config: Config
    facts: DataFacts
    machine: Machine
    source: Source
    seconds: float | None

    @property
    def keys(self) -> list[str]:
        """Return the settings as "key=value" entries."""
        return [f"{choice.key}={choice.value}" for choice in self.choices if choice.key != "config"]

    def command(self) -> str:
        """Return the command line that trains by this plan, without a folder to look into."""
        return f"resdet train --config {self.choices[0].value} {shlex.join(self.keys)}"

    def yaml(self) -> str:
        """Return the plan as a configuration file of its own, its reasons in front."""
        reasons = [f"# {choice.key}={choice.value}: {choice.reason}" for choice in self.choices]
        return "\n".join([f"# Chosen for {self.folder} and {self.machine.name}.", *reasons, dump_config(self.config)])

    def text(self) -> str:
        """Return the plan for people: data, machine, each setting with its reason, and the time it takes."""
        facts, sides = self.facts, self.facts.relative_sides * self.facts.short_side
        val = "none" if self.source.val is None else f"{len(self.source.val)} to validate on"
        lines = [
            f"data: {facts.images} images to train on, {val}; {facts.objects} objects of {facts.classes} classes; "
            f"{facts.long_side}x{facts.short_side} px (median), objects {_range(sides)}",
            f"machine: {self.machine.name}",
        ]
        for choice in self.choices:
            name = f"  {choice.key}={choice.value}"
            lines += textwrap.wrap(
                f"{name:40}  {choice.reason}", 118, subsequent_indent=" " * 42, break_long_words=False
            )
        return "\n".join([*lines, *_advice(self)])


def make_plan(
    folder: str | Path, keys: Sequence[str] = (), *, config: str | Path | None = None, measure: bool = True
) -> Plan:
    """Choose a configuration for a folder of data and this machine.

    Args:
        folder: of a data set in a known format.
        keys: "key=value" entries, which come before what would be chosen.
        config: the configuration to start from; None chooses it too.
        measure: take two training steps, to say how long the run will take.

    Raises:
        DataError: the folder is not there, its data are not recognised, or there is nothing to train on.
        ValueError, FileNotFoundError: invalid keys or configuration.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise DataError(f"no folder {root}: resdet train FOLDER expects one with images and annotations")
    given = dict(_key_and_value(entry) for entry in keys)
    data = _data_choices(root, given)
    start = load_config(SMALL_CONFIG, _entries(data, {k: v for k, v in given.items() if k.startswith("data.")}))
    source = open_source(start.data)
    assert source.train is not None
    dataset = TrainSet(source.train, source.read, start.data, start.seed)
    if not len(dataset.usable()):
        reason = why_nothing_to_train_on(source.train, dataset.objects)
        raise DataError(f"{source.train.name}: no image with objects to train on: {reason}")
    facts, machine = data_facts(dataset), this_machine()
    chosen = [Choice("config", str(config), _GIVEN)] if config is not None else choose(facts, machine)
    chosen += [*data, *_weights_choice(given)]
    settings = load_config(chosen[0].value, _entries(chosen, given))
    resolved = resolve(settings, TrainSet(source.train, source.read, settings.data, settings.seed))
    choices = [choice for choice in (*chosen, *_resolved_choices(settings, resolved, facts)) if choice.key not in given]
    choices += [Choice(key, value, _GIVEN) for key, value in given.items()]
    seconds = None
    if measure:
        seconds = (
            seconds_per_step(resolved, facts.classes, (facts.short_side, facts.long_side)) * resolved.solver.max_iter
        )
    return Plan(root, tuple(choices), resolved, facts, machine, source, seconds)


def _data_choices(root: Path, given: dict[str, str]) -> list[Choice]:
    """Return the data keys of a folder: format, root, sets; what is given is not looked for.

    Raises:
        DataError: the format is not recognised, or which set to train on is not clear.
    """
    where = Choice("data.root", str(root), "the folder")
    if "data.format" in given:
        if "data.train" not in given:
            raise DataError(
                f"data.format={given['data.format']} is given: name the sets too, data.train=NAME data.val=NAME"
            )
        return [where, *([] if "data.val" in given else [_split_choice("no set to validate on is named")])]
    found = recognise(root)
    named = DataConfig(
        format=AUTO, root=str(root), train=given.get("data.train", AUTO), val=given.get("data.val", AUTO)
    )
    data = find_data(named)
    several = f"of the sets {', '.join(found.splits)}" if len(found.splits) > 1 else "the one set there is"
    return [
        Choice("data.format", found.format, found.reason),
        where,
        Choice("data.train", data.train, several),
        _split_choice("there is no set to validate on") if data.val is None else Choice("data.val", data.val, several),
    ]


def _split_choice(reason: str) -> Choice:
    return Choice(
        "data.val", _SPLIT, f"{reason}: a fifth of the images, by class, images that look the same on one side"
    )


def _weights_choice(given: dict[str, str]) -> list[Choice]:
    """Return the weights of a backbone that is given without weights of its own."""
    name = given.get("model.backbone", "")
    if not name or is_name(name) or "model.weights" in given:
        return []
    return [Choice("model.weights", f"torchvision://{name}", "of the given backbone")]


def _resolved_choices(settings: Config, resolved: Config, facts: DataFacts) -> list[Choice]:
    """Return what ``auto`` became."""
    choices = []
    if not settings.model.anchors.sizes:
        sizes = ",".join(f"{size:g}" for size in resolved.model.anchors.sizes)
        choices.append(Choice("model.anchors.sizes", f"[{sizes}]", "those that match most of the objects"))
    if not settings.solver.max_iter:
        steps, batch = resolved.solver.max_iter, resolved.solver.batch_size
        reason = f"{steps * batch / facts.images:.1f} epochs of {facts.images} images, {batch} a step"
        choices.append(Choice("solver.max_iter", str(steps), reason))
    return choices


def _advice(plan: Plan) -> list[str]:
    """Return how long it takes, what the weights need, and the command that does the same."""
    lines = []
    if plan.seconds is not None:
        steps = plan.config.solver.max_iter
        each = plan.seconds / steps
        lines.append(
            f"time: about {in_words(plan.seconds)} on this machine now: {steps} steps of {each:.2g} s, as measured; loading "
            "and evaluation come on top"
        )
        if plan.seconds > _LONG:
            lines.append(
                f"  for a quick try: solver.max_iter={max(100, int(_LONG / each / 100) * 100)}, or data.limit=100"
            )
    weights = plan.config.model.weights
    if weights is not None and is_name(weights) and not cached_file(weights).exists():
        lines.append(f"weights: {weights} is not in the cache and will be downloaded; without a network:")
        lines += [f"  {keys}  ({why})" for keys, why in WITHOUT_WEIGHTS]
    if plan.facts.rare:
        lines.append(f"few objects: {first_few(plan.facts.rare)} have fewer than ten, and will hardly be learned")
    return [*lines, f"the same without a folder: {plan.command()}"]


def _range(sides: NDArray[np.float64]) -> str:
    low, high = np.quantile(sides, (0.1, 0.9)) if len(sides) else (0.0, 0.0)
    return f"{low:.0f} to {high:.0f} px (10 % are smaller, 10 % larger)"


def _entries(choices: Sequence[Choice], given: dict[str, str]) -> list[str]:
    """Return "key=value" entries, those given last."""
    chosen = [f"{choice.key}={quoted(choice)}" for choice in choices if choice.key not in {"config", *given}]
    return [*chosen, *(f"{key}={value}" for key, value in given.items())]


def quoted(choice: Choice) -> str:
    """Return a choice's value as YAML: names and paths in quotes."""
    text = choice.value
    names = choice.key in ("data.root", "data.train", "data.format", "model.weights")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if names else text


def _key_and_value(entry: str) -> tuple[str, str]:
    key, separator, value = entry.partition("=")
    if not separator:
        raise ValueError(f"expected key=value, got {entry!r}")
    return key.strip(), value
