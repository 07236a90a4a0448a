"""Rules from a data set and a machine to a configuration, each choice with its reason."""

from dataclasses import dataclass

import numpy as np

from detection.training.planning.facts import DataFacts, Machine

SMALL_CONFIG = "faster_rcnn_r18_own_data.yaml"
_C4_STRIDE = 16  # pixels; an object smaller than that is less than one cell of C4's map
_LARGE = 96  # pixels, COCO's bound of large objects
_MANY_IMAGES = 5000  # that a ResNet-101 learns from
_MAX_ENLARGED = 2.0  # resizing beyond adds arithmetic and no detail
_STEP = 32  # short sides are multiples of it
# (GiB from which on, network, images a step): configs/ name 16 GB for a ResNet-50 with 8, and 24 GB for a ResNet-101
_GPUS = ((22.0, "r101", 8), (15.0, "r50", 8), (10.0, "r50", 4), (7.0, "r50", 2))


@dataclass(frozen=True)
class Choice:
    """A setting and why.

    Attributes:
        key: of the configuration; "config" for the file that it starts from.
        value: as text of YAML.
        reason: of the choice.
    """

    key: str
    value: str
    reason: str


@dataclass(frozen=True)
class Scale:
    """How a configuration resizes: short side and limit of the long one, in pixels."""

    short_side: int
    max_side: int


_SMALL_SCALE, _GPU_SCALE = Scale(600, 1000), Scale(800, 1333)


def choose(facts: DataFacts, machine: Machine) -> list[Choice]:
    """Return the configuration to start from and the settings that differ from it, each with its reason.

    Args:
        facts: of the training set.
        machine: that trains.
    """
    network, batch, network_reason = _network(facts, machine)
    scale, scale_reason = _scale(facts, _SMALL_SCALE if network == "r18" else _GPU_SCALE)
    sides = facts.relative_sides * scale.short_side
    if network == "r18":
        choices = [Choice("config", SMALL_CONFIG, network_reason), *_small_architecture(sides)]
    else:
        large = bool(len(sides)) and float(np.quantile(sides, 0.1)) >= _LARGE
        name = f"faster_rcnn_{network}_{'c4' if large else 'fpn'}_own_data.yaml"
        why = (
            f"C4: nine objects of ten are over {_LARGE} px"
            if large
            else f"a feature pyramid: a tenth of the objects is under {np.quantile(sides, 0.1) if len(sides) else 0:.0f} px"
        )
        choices = [Choice("config", name, f"{network_reason}; {why}")]
        if batch != 8:
            choices.append(Choice("solver.batch_size", str(batch), f"fits {machine.memory:.0f} GiB"))
    if scale_reason:
        sides_of = [scale.short_side] if network == "r18" else _several(scale.short_side)
        choices.append(Choice("data.short_side", str(sides_of).replace(" ", ""), scale_reason))
        choices.append(Choice("data.max_side", str(scale.max_side), "five thirds of the short side"))
    workers = max(0, min(4, machine.cores - 1)) if machine.device == "cpu" else min(8, machine.cores)
    choices.append(Choice("data.workers", str(workers), f"{machine.cores} cores"))
    if facts.empty:
        reason = f"{facts.empty} images have no objects: they are not trained on (data.keep_empty=true does)"
        choices.append(Choice("data.keep_empty", "false", reason))
    return choices


def _network(facts: DataFacts, machine: Machine) -> tuple[str, int, str]:
    """Return r18, r50 or r101, the images a step, and why."""
    if machine.device != "cuda":
        return "r18", 2, f"a ResNet-18: {machine.name}"
    for memory, network, batch in _GPUS:
        if machine.memory < memory:
            continue
        if network == "r101" and facts.images < _MANY_IMAGES:
            return (
                "r50",
                8,
                f"a ResNet-50: {machine.name}, and {facts.images} images (a ResNet-101 from {_MANY_IMAGES})",
            )
        name = {"r50": "a ResNet-50", "r101": "a ResNet-101"}[network]
        return network, batch, f"{name}: {machine.name}, {facts.images} images"
    return "r18", 2, f"a ResNet-18: {machine.name}, a ResNet-50 wants {_GPUS[-1][0]:.0f} GiB"


def _scale(facts: DataFacts, usual: Scale) -> tuple[Scale, str]:
    """Return the size to train at, and why it is not the usual one; "" where it is."""
    if facts.short_side * _MAX_ENLARGED < usual.short_side:
        short = _multiple(facts.short_side * _MAX_ENLARGED)
        return (
            Scale(short, _multiple(short * 5 / 3)),
            f"the images are {facts.long_side}x{facts.short_side} px: enlarged to twice that, since more adds no detail",
        )
    median = float(np.median(facts.relative_sides)) if len(facts.relative_sides) else 1.0
    if median * usual.short_side < _C4_STRIDE * 1.5 and facts.short_side > usual.short_side:
        short = _multiple(min(facts.short_side, usual.short_side * 4 / 3))
        return (
            Scale(short, _multiple(short * 5 / 3)),
            f"half of the objects would be under {median * usual.short_side:.0f} px at {usual.short_side}",
        )
    return usual, ""


def _small_architecture(sides: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[Choice]:
    """Return the choices that make of the small configuration a pyramid, where the objects are smaller than C4's stride."""
    median = float(np.median(sides)) if len(sides) else 0.0
    if not len(sides) or median >= _C4_STRIDE:
        return [
            Choice(
                "model.architecture",
                "c4",
                f"half of the objects are over {median:.0f} px, a cell of C4's map is {_C4_STRIDE}",
            )
        ]
    reason = (
        f"half of the objects are under {median:.0f} px, less than a cell of C4's map ({_C4_STRIDE}): slower, but finer"
    )
    same = "as the pyramid's configuration"
    return [
        Choice("model.architecture", "fpn", reason),
        Choice("model.conv5_norm", "null", same),
        Choice("model.fpn_channels", "128", "half of the usual, for a CPU"),
        Choice("model.roi.resolution", "7", same),
        Choice("model.rpn.after_nms_test", "1000", same),
    ]


def _several(short_side: int) -> list[int]:
    """Return the short sides that training draws from: six, up to the given one, as detectron2's 640 to 800."""
    return [_multiple(short_side * fraction) for fraction in (0.8, 0.84, 0.88, 0.92, 0.96)] + [short_side]


def _multiple(value: float) -> int:
    return max(_STEP, int(value / _STEP + 0.5) * _STEP)
