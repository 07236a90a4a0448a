"""``resdet inspect``: table 1 of the ResNet paper for any network and input size, its figure 7 for
trained networks, or the gradients of a new one."""

import json
import logging
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from backbone.recipe import RECIPES
from backbone.table import Stage
from detection.classification import gradients
from detection.classification.config import ImageDataConfig
from detection.classification.gradients import gradient_norms, variants
from detection.classification.images import EvalDataset, eval_loader, open_dataset, resize_center_crop
from detection.classification.networks import Classifier, read_classifier
from detection.classification.plots import Responses, draw_gradients, draw_responses
from detection.classification.responses import response_deviations
from detection.data.image import find_images, read_image
from detection.utils.errors import optional

_LOG = logging.getLogger(__name__)
_BATCH_SIZE = 64


def inspect_responses(
    files: Sequence[Path], name: str | None, inputs: Sequence[Path] | None, count: int, output: Path, *, as_json: bool
) -> int:
    """Plot the standard deviation of each layer's response, and print its median and maximum for each network.

    Args:
        files: weights of the classifiers.
        name: of the networks, for files without their configuration.
        inputs: image files and folders; None takes the validation images of each file's configuration.
        count: maximum number of images.
        output: file of the plot.
        as_json: print the deviations of all layers as JSON instead of a table.

    Returns:
        The exit code 0.

    Raises:
        ValueError: a count below 1, or the folder of ``output`` does not exist.
    """
    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}")
    if not output.resolve().parent.is_dir():
        raise ValueError(f"no folder {output.resolve().parent} for {output.name}")
    deviations = {}
    for file, title in zip(files, _titles(files), strict=True):
        classifier = read_classifier(file, name)
        deviations[title] = response_deviations(classifier.net, _batches(classifier, file, inputs, count))
    if as_json:
        print(json.dumps(deviations))
    else:
        summary = Table("network", "layers", "median response", "max", "last layer")
        for title, values in deviations.items():
            numbers = (statistics.median(values.values()), max(values.values()), list(values.values())[-1])
            summary.add_row(title, str(len(values)), *(f"{v:.3f}" for v in numbers))
        # titles are file names: "[a]" is no markup
        Console(width=None if Console().is_terminal else 120, markup=False, emoji=False).print(summary)
    with optional(output):
        draw_responses([Responses(title, list(values.values())) for title, values in deviations.items()], output)
        _LOG.info("responses by layer: %s", output)
    return 0


def inspect_gradients(
    name: str,
    size: tuple[int, int],
    inputs: Sequence[Path] | None,
    count: int,
    output: Path,
    *,
    as_json: bool,
    **options: Any,
) -> int:
    """Plot the norm of the gradient at each layer of a new network, with and without its shortcuts and its norms.

    Args:
        name: of the network.
        size: height and width of the input in pixels; of images, the centre is cropped.
        inputs: image files and folders; None takes normal noise. Labels are drawn.
        count: maximum number of images.
        output: file of the plot.
        as_json: print the norms of all layers as JSON instead of a table.
        options: keyword arguments of the network.

    Returns:
        The exit code 0.

    Raises:
        ValueError: a count below 1, or a plain network.
    """
    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}")
    count = min(count, _BATCH_SIZE)
    generator = torch.Generator().manual_seed(0)
    if inputs:
        crops = [resize_center_crop(read_image(f), min(size), min(size)) for f in find_images(inputs)[:count]]
        images = RECIPES["torchvision"].normalise(torch.stack(crops).float().div_(255))
    else:
        images = torch.randn(count, 3, *size, generator=generator)
    norms = {}
    for kind, net in variants(name, **options).items():
        labels = torch.randint(len(net.fc.weight), (len(images),), generator=generator)  # type: ignore[arg-type]
        norms[kind] = gradient_norms(net, images, labels)
    if as_json:
        print(json.dumps({"name": name, "size": list(size), "gradients": norms}))
    else:
        columns = ("layers", "first layer", "last layer", "first / last")
        summary = Table(f"{name} on {_size(size)}, {len(images)} images", *columns)
        for kind, values in norms.items():
            summary.add_row(kind, str(len(values)), *(f"{v:.3g}" for v in gradients.summarise(values)))
        Console(width=None if Console().is_terminal else 120).print(summary)
    with optional(output):
        draw_gradients([Responses(kind, list(values.values())) for kind, values in norms.items()], output)
        _LOG.info("gradients by layer: %s", output)
    return 0


def _titles(files: Sequence[Path]) -> list[str]:
    """Return the shortest path suffixes that are unique.

    Raises:
        ValueError: duplicate files.
    """
    parts = [file.resolve().parts for file in files]
    if len(set(parts)) < len(parts):
        raise ValueError("--responses has duplicate files")
    count = 1
    while len({p[-count:] for p in parts}) < len(parts):
        count += 1
    return ["/".join(p[-count:]) for p in parts]


def _batches(classifier: Classifier, file: Path, inputs: Sequence[Path] | None, count: int) -> Iterator[torch.Tensor]:
    config = classifier.config
    if inputs:
        data = config.data if config is not None else ImageDataConfig()
        images = [
            resize_center_crop(read_image(f), data.eval_short_side, data.crop) for f in find_images(inputs)[:count]
        ]
        batches = iter(torch.stack(images).split(_BATCH_SIZE))
    elif config is None or config.data.val is None:
        raise ValueError(f"{file} has no validation set in its configuration; give images with --pictures")
    else:
        dataset = EvalDataset(open_dataset(config.data, "val", config.data.val), config.data)
        # evenly spaced, to cover all classes: folders are sorted by class
        indices = range(0, len(dataset), max(len(dataset) // count, 1))[:count]
        batches = (images for images, _ in eval_loader(dataset, _BATCH_SIZE, indices))
    for batch in batches:
        yield classifier.recipe.normalise(batch.float().div_(255))


def print_table(name: str, size: tuple[int, int], rows: Sequence[Stage]) -> None:
    """Print a network's stages and totals for an input of ``size`` (height, width)."""
    columns = ("output size", "channels", "stride", "receptive field (px)", "parameters", "multiply-adds")
    stages = Table(show_footer=True)
    stages.add_column("stage", "total")
    stages.add_column("layers", no_wrap=True)
    parameters, macs = sum(r.parameters for r in rows), sum(r.macs for r in rows)
    for column in columns:
        total = {"parameters": f"{parameters:,}", "multiply-adds": _count(macs)}.get(column, "")
        stages.add_column(column, total, justify="right")
    for row in rows:
        numbers = (
            _size(row.size),
            row.channels,
            row.stride,
            row.receptive_field,
            f"{row.parameters:,}",
            _count(row.macs),
        )
        stages.add_row(row.name, row.blocks, *map(str, numbers))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(f"{name} on {_size(size)}", stages, sep="\n")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _count(macs: int) -> str:
    return f"{macs / 1e9:.3f} G" if macs >= 1e8 else f"{macs / 1e6:.2f} M"
