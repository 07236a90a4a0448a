"""Replay a step whose losses were non-finite from the file that training left, and name the first non-finite layers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detection.checkpoint.metadata import KEY, Classes, describe, parse_metadata
from detection.config import Config
from detection.modeling.build import build_model
from detection.utils.atomic_io import replacing


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
    """Write all that a step's losses come from: weights, images, targets, the seed of its samples."""
    content = {KEY: describe(config, classes, module).to_dict(), "model": model.state_dict(), **step}
    content["losses"] = {name: float(value.detach()) for name, value in losses.items()}
    with replacing(path) as part:
        torch.save(content, part)


def replay(content: dict[str, Any], precision: str | None = None) -> tuple[dict[str, float], list[str]]:
    """Return the losses of a saved step, and what was non-finite first: tensors of the weights, then modules' outputs. A
    CPU's generator draws other samples than a GPU's from the same seed."""
    metadata = parse_metadata(content[KEY], "the step")
    if metadata.is_module:
        raise ValueError(
            f"the step is of a module of your own ({metadata.backbone['name']}), which no configuration builds"
        )
    model = build_model(metadata.config("the step").model, len(metadata.classes.names))
    model.load_state_dict(content["model"])
    model.train()
    weights = content["model"].items()
    non_finite = [f"weights: {k} is not finite" for k, v in weights if v.is_floating_point() and not _finite(v)]
    outputs: list[str] = []
    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(_watch(name, outputs))
    images = [image.float().div_(255) for image in content["images"]]
    generator = torch.Generator().manual_seed(content["seed"])
    with torch.autocast("cpu", torch.bfloat16, enabled=(precision or content["precision"]) == "bf16"):
        losses: dict[str, Tensor] = model(images, content["targets"], generator=generator)
    return {name: float(value.detach()) for name, value in losses.items()}, non_finite[:5] + outputs[:5]


def _watch(name: str, found: list[str]) -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not _finite(output):
            before = all(_finite(x) for x in inputs if isinstance(x, Tensor))
            found.append(f"output: {name} is not finite{', its input was' if before else ''}")

    return hook


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
