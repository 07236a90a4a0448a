"""``resdet inspect``: the paper's table 1 for any network and input size, or its figure 7 for trained ones."""

import json
import logging
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from backbone.table import Stage
from detection.classification.config import PicturesConfig
from detection.classification.images import EvalPictures, eval_loader, middle, open_set
from detection.classification.networks import Classifier, read_classifier
from detection.classification.plots import Responses, draw_responses
from detection.classification.responses import response_deviations
from detection.data.image import find_images, read_image

_LOG = logging.getLogger(__name__)
_BATCH = 64


def responses(
    files: Sequence[Path], name: str | None, pictures: Sequence[Path] | None, count: int, output: Path, *, as_json: bool
) -> int:
    """Draws the standard deviation of each layer's response, and prints its median and largest for each network."""
    if count < 1:
        raise ValueError(f"--count must be at least 1, got {count}")
    if not output.resolve().parent.is_dir():
        raise ValueError(f"there is no folder {output.resolve().parent} for {output.name}")
    found = {}
    for file, title in zip(files, _titles(files), strict=True):
        classifier = read_classifier(file, name)
        found[title] = response_deviations(classifier.net, _batches(classifier, file, pictures, count))
    draw_responses([Responses(title, list(values.values())) for title, values in found.items()], output)
    if as_json:
        print(json.dumps(found))
    else:
        shown = Table("network", "layers", "median response", "largest", "of the last layer")
        for title, values in found.items():
            numbers = (statistics.median(values.values()), max(values.values()), list(values.values())[-1])
            shown.add_row(title, str(len(values)), *(f"{v:.3f}" for v in numbers))
        Console(width=None if Console().is_terminal else 120).print(shown)
    _LOG.info("responses layer by layer: %s", output)
    return 0


def _titles(files: Sequence[Path]) -> list[str]:
    """A file's name, with as many of its folders as tell it from the others.

    Raises:
        ValueError: a file is given twice.
    """
    parts = [file.resolve().parts for file in files]
    if len(set(parts)) < len(parts):
        raise ValueError("--responses has a file twice")
    count = 1
    while len({p[-count:] for p in parts}) < len(parts):
        count += 1
    return ["/".join(p[-count:]) for p in parts]


def _batches(classifier: Classifier, file: Path, inputs: Sequence[Path] | None, count: int) -> Iterator[torch.Tensor]:
    config = classifier.config
    if inputs:
        data = config.data if config is not None else PicturesConfig()
        images = [middle(read_image(f), data.eval_short_side, data.crop) for f in find_images(inputs)[:count]]
        batches = iter(torch.stack(images).split(_BATCH))
    elif config is None or config.data.val is None:
        raise ValueError(f"{file} does not say what pictures it was judged on; name some with --pictures")
    else:
        shown = EvalPictures(open_set(config.data, "val", config.data.val), config.data)
        chosen = range(0, len(shown), max(len(shown) // count, 1))[:count]  # of all classes: folders go class by class
        batches = (images for images, _ in eval_loader(shown, _BATCH, chosen))
    for batch in batches:
        yield classifier.recipe.normalise(batch.float().div_(255))


def show(name: str, size: tuple[int, int], rows: Sequence[Stage]) -> None:
    """Prints the table with its sums."""
    columns = ("map", "channels", "stride", "sees (px)", "parameters", "multiply-adds")
    drawn = Table(show_footer=True)
    drawn.add_column("stage", "sum")
    drawn.add_column("layers", no_wrap=True)
    parameters, macs = sum(r.parameters for r in rows), sum(r.macs for r in rows)
    for column in columns:
        total = {"parameters": f"{parameters:,}", "multiply-adds": _count(macs)}.get(column, "")
        drawn.add_column(column, total, justify="right")
    for row in rows:
        numbers = (
            _size(row.size),
            row.channels,
            row.stride,
            row.receptive_field,
            f"{row.parameters:,}",
            _count(row.macs),
        )
        drawn.add_row(row.name, row.blocks, *map(str, numbers))
    console = Console(width=None if Console().is_terminal else 140)
    console.print(f"{name} on {_size(size)}", drawn, sep="\n")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _count(macs: int) -> str:
    return f"{macs / 1e9:.3f} G" if macs >= 1e8 else f"{macs / 1e6:.2f} M"
