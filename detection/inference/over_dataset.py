"""Inference over a dataset: detections in original image coordinates, as COCO results."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detection.data.annotations import Annotations
from detection.data.loader import Batch, as_float, collate, float_images, to_device
from detection.inference.cuda_graphs import RecordedDetector
from detection.modeling.faster_rcnn import FasterRCNN
from detection.modeling.structures import Detections
from detection.ops.boxes import clip, xyxy_to_xywh
from detection.ops.device import autocast
from detection.utils.distributed import gather

Tick = Callable[[], None]
Rows = NDArray[np.float64]


def scale_back(boxes: Tensor, resized: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Rescale boxes [N, 4] from the resized image to the original image; both sizes are (height, width)."""
    ratio = boxes.new_tensor([original[1] / resized[1], original[0] / resized[0]] * 2)
    return clip(boxes * ratio, original)


def as_rows(detections: Detections) -> Rows:
    """Return one image's detections as [N, 6] float64: x, y, width, height, label, score; one host-device sync."""
    box, score = detections["boxes"], detections["scores"]
    # raised to float64 on the CPU, since Apple's GPU has none; labels are exact in float32
    table = torch.cat((box, detections["labels"][:, None].to(box), score[:, None].to(box)), dim=1).cpu().double()
    rows: Rows = torch.cat((xyxy_to_xywh(table[:, :4]), table[:, 4:]), dim=1).numpy()
    return rows


def coco_results(
    rows: Rows, image_id: Any, category_ids: Sequence[int], names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return one image's detections as COCO results; ``names`` adds "category_name", for datasets without COCO ids."""
    results = []
    for *box, label, score in rows.tolist():
        k = int(label) - 1
        results.append({"image_id": image_id, "category_id": category_ids[k], "bbox": box, "score": score})
        if names is not None:
            results[-1]["category_name"] = names[k]
    return results


@torch.no_grad()
def detect(
    model: FasterRCNN,
    loader: Iterable[Batch],
    records: Annotations,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    cuda_graphs: bool = False,
    names: Sequence[str] | None = None,
    tick: Tick = lambda: None,
) -> list[dict[str, Any]]:
    """Run inference on this rank's images; rank 0 returns the results of all ranks, each image once and in the order of
    ``records``, other ranks an empty list.

    Args:
        model: images -> detections; its training mode is restored afterwards.
        loader: batches of this rank's images.
        records: annotations with the image and category ids.
        device: of the model.
        dtype: to multiply in (:func:`detection.utils.precision.autocast_dtype`).
        cuda_graphs: replay CUDA graphs for image sizes that recur (on a GPU).
        names: class names, see :func:`coco_results`.
        tick: called after each image.
    """
    was_training = model.training
    model.eval()
    run: Any = RecordedDetector(model) if cuda_graphs and isinstance(model, FasterRCNN) else model
    rows_by_index: list[tuple[int, Rows]] = []
    try:
        for batch in loader:
            on_device = to_device(batch, device)
            images, scaled = float_images(on_device), [as_float(views) for views in on_device.scaled]
            with autocast(device, dtype):
                outputs = run(images, scaled) if scaled else run(images)
            items = zip(images, outputs, batch.index, batch.sizes, batch.readable, strict=True)
            for image, output, i, size, readable in items:
                output["boxes"] = scale_back(output["boxes"].float(), (image.shape[-2], image.shape[-1]), size)
                if readable:
                    rows_by_index.append((i, as_rows(output)))
                tick()
    finally:
        model.train(was_training)
    results = []
    for i, rows in sorted(gather(rows_by_index), key=lambda item: item[0]):
        results += coco_results(rows, records.image_ids[i], records.category_ids, names)
    return results


def _readable(batch: Batch) -> Batch:
    """Return the images that could be decoded: the others are black and would have losses of their objects."""
    rows = [i for i, readable in enumerate(batch.readable) if readable]
    if len(rows) in (0, len(batch.images)):
        return batch if rows else Batch([], [], [], [], [])
    return collate([(batch.images[i], batch.targets[i], batch.index[i], batch.sizes[i], True) for i in rows])


@torch.no_grad()
def validation_losses(
    model: Any, loader: Iterable[Batch], device: torch.device, seed: int, *, dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """Return the training losses on a validation set, averaged over the readable images of all ranks; normalisation layers
    in evaluation mode, sampling seeded by ``seed``, as many proposals as in training."""
    was_training = model.training
    model.eval()
    generator = torch.Generator(device).manual_seed(seed)
    rows: list[dict[str, Any]] = []
    try:
        for batch in loader:
            batch = to_device(_readable(batch), device)
            if not batch.images:
                continue
            images = float_images(batch)
            sizes = [(im.shape[-2], im.shape[-1]) for im in images]
            with autocast(device, dtype):
                losses = model.losses(model.batch(images), sizes, batch.targets, generator)
            rows += [{name: float(value) for name, value in losses.items()}] * len(images)
    finally:
        model.train(was_training)
    rows = gather(rows)
    return {f"val_{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}
