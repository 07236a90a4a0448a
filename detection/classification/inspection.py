"""``resdet inspect``: table 1 of the ResNet paper for any network and input size, or its figure 7 for trained networks."""

import json
import logging
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from backbone.table import Stage
from detection.classification.config import ImageDataConfig
from detection.classification.images import EvalDataset, eval_loader, open_dataset, resize_center_crop
from detection.classification.networks import Classifier, read_classifier
from detection.classification.plots import Responses, draw_responses
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
