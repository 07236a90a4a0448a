"""``resdet predict``: a trained detector on pictures of one's own."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from detection.data import transforms
from detection.evaluation.visualize import Drawn, Picture, draw
from detection.inference.cuda_graphs import RecordedDetector
from detection.inference.over_dataset import scale_back
from detection.modeling.faster_rcnn import FasterRCNN

_LOG = logging.getLogger(__name__)


def detect_pictures(
    model: FasterRCNN | RecordedDetector, pictures: Sequence[Picture], short_side: int, max_side: int
) -> list[Any]:
    """Detections in the pixels of RGB pictures [H, W, 3], seen at the given size."""
    if not pictures:
        return []
    device = next(model.parameters()).device
    none = torch.zeros(0, 4)
    seen: list[Tensor] = []
    for picture in pictures:
        image = torch.from_numpy(picture.copy()).permute(2, 0, 1)
        seen.append(transforms.resize(image, none, short_side, max_side)[0].to(device).float().div_(255))
    found = model(seen)
    for image, picture, detections in zip(seen, pictures, found, strict=True):
        detections["boxes"] = scale_back(detections["boxes"], (image.shape[-2], image.shape[-1]), picture.shape[:2])
    return list(found)


def chunks(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for i in range(0, len(files), size):
        yield files[i : i + size]


def free_name(folder: Path, file: Path, taken: set[str]) -> Path:
    """A name for the file's picture that no other picture of this run has: images of one name come from many folders."""
    name, number = file.stem, 2
    while name in taken:
        name, number = f"{file.stem}-{number}", number + 1
    taken.add(name)
    return folder / f"{name}.jpg"


def write_picture(picture: Picture, detections: Any, classes: Sequence[str], threshold: float, path: Path) -> None:
    keep = detections["scores"] >= threshold
    drawn = Drawn(
        detections["boxes"][keep].tolist(), detections["labels"][keep].tolist(), detections["scores"][keep].tolist()
    )
    Image.fromarray(draw(picture, drawn, classes)).save(path, quality=92)
