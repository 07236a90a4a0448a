"""Replay a saved training step with non-finite losses, and name the first non-finite layers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detection.checkpoint.metadata import KEY, Classes, describe, parse_metadata
from detection.config import Config
from detection.modeling.build import build_model
from detection.ops.device import autocast
from detection.utils.atomic_io import replacing
from detection.utils.precision import Precision, autocast_dtype


class NonFiniteLossError(ValueError):
    """A non-finite loss; the message names the losses and the images."""


def save_step(
    path: Path,
    model: nn.Module,
    config: Config,
    classes: Classes,
    step: dict[str, Any],
    losses: dict[str, Tensor],
    module: str | None = None,
) -> None:
    """Write everything that determines a step's losses: weights, images, targets, sampling seed."""
    content = {KEY: describe(config, classes, module).to_dict(), "model": model.state_dict(), **step}
    content["losses"] = {name: float(value.detach()) for name, value in losses.items()}
    with replacing(path) as part:
        torch.save(content, part)


def replay(content: dict[str, Any], precision: Precision | None = None) -> tuple[dict[str, float], list[str]]:
    """Return the losses of a saved step, and what was non-finite first: weight tensors, then module outputs.

    A CPU generator draws different samples than a GPU's from the same seed.
    """
    metadata = parse_metadata(content[KEY], "the saved step")
    if metadata.is_module:
        raise ValueError(
            f"the step was saved with a custom module ({metadata.backbone['name']}), which no configuration can build"
        )
    model = build_model(metadata.config("the saved step").model, len(metadata.classes.names))
    model.load_state_dict(content["model"])
    model.train()
    weights = content["model"].items()
    non_finite = [f"weights: {k} is non-finite" for k, v in weights if v.is_floating_point() and not _is_finite(v)]
    outputs: list[str] = []
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(_non_finite_hook(name, outputs))
    images = [image.float().div_(255) for image in content["images"]]
    generator = torch.Generator().manual_seed(content["seed"])
    cpu = torch.device("cpu")
    with autocast(cpu, autocast_dtype(precision or content["precision"], cpu)):
        losses: dict[str, Tensor] = model(images, content["targets"], generator=generator)
    return {name: float(value.detach()) for name, value in losses.items()}, non_finite[:5] + outputs[:5]


def _non_finite_hook(name: str, messages: list[str]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not _is_finite(output):
            finite_input = all(_is_finite(x) for x in inputs if isinstance(x, Tensor))
            messages.append(f"output: {name} is non-finite{', its input is finite' if finite_input else ''}")

    return hook


def _is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
