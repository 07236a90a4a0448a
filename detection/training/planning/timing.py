"""How long a run will take: steps measured on this machine, before it."""

import time

import torch

from detection.config import Config
from detection.data.transforms import output_size
from detection.modeling.build import build_model
from detection.ops.device import autocast, default_device, wait_for
from detection.utils.precision import autocast_dtype

_STEPS = 2  # the first of which also allocates
_SLOW = 5.0  # seconds; such a step is measured once
_OBJECTS = 5  # an image


def seconds_per_step(config: Config, classes: int, size: tuple[int, int]) -> float:
    """Measure a training step without its loading and its optimiser: forward and backward pass over random images.

    Args:
        config: of the run.
        classes: number of them.
        size: (height, width) of a usual image, before it is resized.

    Returns:
        Seconds of the faster of two, or of one that took more than five.
    """
    device = default_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(config.model, classes).to(device)
        model = model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]  # torch's stubs lack it
        height, width = output_size(*size, config.data.short_side[-1], config.data.max_side)
        count = max(1, config.solver.batch_size // config.solver.accumulate)
        images = [torch.rand(3, height, width, device=device) for _ in range(count)]
        corner = torch.rand(_OBJECTS, 2) * torch.tensor([width / 2, height / 2])
        boxes = torch.cat((corner, corner + torch.tensor([width / 4, height / 4])), dim=1).to(device)
        targets = [{"boxes": boxes, "labels": torch.ones(_OBJECTS, dtype=torch.int64, device=device)} for _ in images]
        seconds = []
        for _ in range(_STEPS):
            started = time.perf_counter()
            with autocast(device, autocast_dtype(config.solver.precision, device)):
                losses = model(images, targets)
            torch.stack([value.float() for value in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
            wait_for(device)
            seconds.append(time.perf_counter() - started)
            model.zero_grad(set_to_none=True)
            if seconds[0] > _SLOW:
                break
    return min(seconds) * config.solver.accumulate


def in_words(seconds: float) -> str:
    """Return a duration to two digits or so: "40 seconds", "25 minutes", "3.5 hours", "2.1 days"."""
    for unit, name, digits in ((86400, "days", 1), (5400, "hours", 1), (90, "minutes", 0)):
        if seconds >= unit:
            per = {"days": 86400, "hours": 3600, "minutes": 60}[name]
            return f"{seconds / per:.{digits}f} {name}"
    return f"{seconds:.0f} seconds"
