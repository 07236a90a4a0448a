"""Which stage of a two-stage detector lost each missed object; what proposals, anchors and NMS could reach."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from detection.analysis.matching import average_precision, match, mean
from detection.analysis.proposals import FOUND, STAGES, ImageStages, best_iou, lost_in
from detection.analysis.scene import Floats, Ints, overlapping_pairs, scene_from_coco
from detection.data.annotations import Annotations
from detection.data.loader import Batch, float_images, to_device
from detection.inference.over_dataset import as_rows, coco_results, scale_back
from detection.modeling.faster_rcnn import FasterRCNN
from detection.modeling.roi_head import RoIHead
from detection.modeling.structures import as_maps
from detection.ops.boxes import clip
from detection.ops.device import autocast

NUMBERS = (10, 50, 100, 300, 1000, 2000)  # of proposals
IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)
NMS_IOUS = (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, np.inf)}


@dataclass(frozen=True)
class _Objects:
    """What is known of the objects of one image, those that count: columns of [M]."""

    image: Any
    index: Ints
    label: Ints
    area: Floats
    stage: Ints
    anchor_iou: Floats
    proposal_iou: Floats  # [len(NUMBERS), M]


class _Clock:
    """Seconds by stage of the detector; a stage has ended when a value of its result can be read."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = 0.0

    def start(self) -> None:
        """Begin a batch."""
        self.last = time.perf_counter()

    def stop(self, name: str, result: Tensor) -> None:
        """Add the time since the last stage to the stage ``name``, whose result is given."""
        result.flatten()[:1].sum().item()
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now


@torch.no_grad()
def diagnose(
    model: FasterRCNN,
    loader: Iterable[Batch],
    records: Annotations,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.float32,
    iou: float = 0.5,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Return the diagnosis of a detector on a data set as JSON types.

    Args:
        model: the detector; its score threshold, NMS and limits are its own.
        loader: batches of the images.
        records: their annotations; crowd regions and difficult objects are left out.
        device: of the model.
        dtype: to multiply in.
        iou: of a detection and the object that it finds.
        tick: called after each image.

    Returns:
        "stages": how many objects each stage lost, which add up to "missed"; "proposals": the fraction of the objects with a
        proposal, by number and IoU; "anchors"; both by size; "nms": AP by the IoU of NMS; "objects": a row for each
        missed object; "seconds" an image by stage.
    """
    was_training = model.training
    model.eval()
    objects: list[_Objects] = []
    candidates: list[tuple[Any, tuple[int, int], tuple[int, int], Tensor, Tensor, Tensor]] = []
    clock = _Clock()
    try:
        for batch in loader:
            images = float_images(to_device(batch, device))
            sizes = [(im.shape[-2], im.shape[-1]) for im in images]
            with autocast(device, dtype):
                clock.start()
                features = model.trunk(model.batch(images))
                clock.stop("trunk", as_maps(features)[0])
                output = model.rpn(features)
                proposals = model.rpn.proposals(output, sizes, False)
                clock.stop("RPN", proposals[0])
                scores, deltas = model.roi_head.predictions(features, proposals, sizes, False)
                clock.stop("head", scores[0])
            for k, i in enumerate(batch.index):
                if batch.readable[k]:
                    stages, candidate = _stages(model.roi_head, proposals[k], scores[k], deltas[k], sizes[k])
                    rows = _results(stages, sizes[k], batch.sizes[k], records, i)
                    objects.append(
                        _judge(stages, output.anchors, rows, records, i, sizes[k], batch.sizes[k], model, iou)
                    )
                    candidates.append((i, sizes[k], batch.sizes[k], *candidate))
                tick()
    finally:
        model.train(was_training)
    result = summarise(objects)
    result["iou"], result["score_threshold"] = iou, model.roi_head.score_threshold
    result["seconds"] = {name: value / max(len(objects), 1) for name, value in clock.seconds.items()}
    result["nms"] = _nms_sweep(candidates, records, model.roi_head)
    return result


def _stages(
    head: RoIHead, proposals: Tensor, scores: Tensor, deltas: Tensor, size: tuple[int, int]
) -> tuple[ImageStages, tuple[Tensor, Tensor, Tensor]]:
    """Return an image's stages, and the boxes, labels and scores that went into NMS."""
    classes = scores.shape[1] - 1
    boxes = clip(head.coder.decode(deltas, proposals[:, None].expand(-1, classes, -1)), size)
    region, label = (scores[:, 1:] > head.score_threshold).nonzero(as_tuple=True)
    fine = boxes[region, label].isfinite().all(dim=-1)
    side = boxes[region, label, 2:] - boxes[region, label, :2]
    fine &= (side >= head.min_size).all(dim=-1)
    region, label = region[fine], label[fine]
    candidate = boxes[region, label], label, scores[region, label + 1]
    keep = batched_nms(candidate[0], candidate[2], label, head.nms_iou)
    kept = torch.zeros(len(proposals), classes, dtype=torch.bool, device=scores.device)
    kept[region[keep], label[keep]] = True
    final = torch.stack((region[keep], label[keep]), dim=1)[: head.max_detections]
    arrays = [x.double().cpu().numpy() for x in (proposals, scores, boxes)]
    stages = ImageStages(arrays[0], arrays[1], arrays[2], kept.cpu().numpy(), final.cpu().numpy())
    return stages, (candidate[0].cpu(), label.cpu(), candidate[2].cpu())


def _results(
    stages: ImageStages, resized: tuple[int, int], original: tuple[int, int], records: Annotations, i: int
) -> list[dict[str, Any]]:
    """Return an image's detections as COCO results."""
    proposal, label = stages.final[:, 0], stages.final[:, 1]
    detections: Any = {
        "boxes": scale_back(torch.from_numpy(stages.boxes[proposal, label]).float(), resized, original),
        "labels": torch.from_numpy(label + 1),
        "scores": torch.from_numpy(stages.scores[proposal, label + 1]).float(),
    }
    return coco_results(as_rows(detections), records.image_ids[i], records.category_ids)


def _judge(
    stages: ImageStages,
    anchors: Tensor,
    rows: list[dict[str, Any]],
    records: Annotations,
    i: int,
    resized: tuple[int, int],
    original: tuple[int, int],
    model: FasterRCNN,
    iou: float,
) -> _Objects:
    part = records.objects(i)
    counted = ~(records.crowd[part] | records.difficult[part])
    truth = _one_image(records, i)
    scene = scene_from_coco(truth, rows, max(model.roi_head.max_detections, 1))
    found = match(scene, overlapping_pairs(scene), (iou,)).of_object[0][counted] >= 0
    ratio = np.array([resized[1] / original[1], resized[0] / original[0]] * 2)
    boxes = records.boxes[part][counted] * ratio
    labels = records.labels[part][counted] - 1
    anchor_iou = best_iou(boxes, anchors.double().cpu().numpy())[0]
    stage = lost_in(stages, boxes, labels, found, anchor_iou, threshold=model.roi_head.score_threshold, iou=iou)
    index = np.arange(part.start, part.stop)[counted]
    reach = best_iou(boxes, stages.proposals, NUMBERS)
    return _Objects(records.image_ids[i], index, labels, records.areas[part][counted], stage, anchor_iou, reach)


def _one_image(records: Annotations, i: int) -> dict[str, Any]:
    keep = np.zeros(len(records), dtype=bool)
    keep[i] = True
    return records.select(keep).to_coco() if len(records) > 1 else records.to_coco()


def summarise(objects: Sequence[_Objects]) -> dict[str, Any]:
    """Return counts and recalls of all images."""
    if not objects:
        return {"objects": 0, "missed": 0, "stages": {}, "proposals": {}, "anchors": {}, "by_size": {}, "lost": []}
    stage = np.concatenate([o.stage for o in objects])
    area = np.concatenate([o.area for o in objects])
    anchors = np.concatenate([o.anchor_iou for o in objects])
    reach = np.concatenate([o.proposal_iou for o in objects], axis=1)
    everything = np.ones(len(stage), dtype=bool)
    masks = {"all": everything, **{k: (area >= low) & (area < high) for k, (low, high) in SIZES.items()}}

    def counts(mask: Any) -> dict[str, int]:
        return {name: int((stage[mask] == k).sum()) for k, name in enumerate(STAGES) if k != FOUND}

    def fractions(values: Any) -> list[float | None]:
        return [float((values >= t).mean()) if len(values) else None for t in IOUS]

    return {
        "images": len(objects),
        "objects": len(stage),
        "missed": int((stage != FOUND).sum()),
        "stages": counts(everything),
        "ious": list(IOUS),
        "numbers": list(NUMBERS),
        "proposals": {str(n): fractions(reach[k]) for k, n in enumerate(NUMBERS)},
        "anchors": fractions(anchors),
        "by_size": {
            name: {
                "objects": int(mask.sum()),
                "missed": int((stage[mask] != FOUND).sum()),
                "stages": counts(mask),
                "proposals": {str(n): fractions(reach[k][mask]) for k, n in enumerate(NUMBERS)},
                "anchors": fractions(anchors[mask]),
            }
            for name, mask in masks.items()
            if name != "all"
        },
        "lost": [
            {"image_id": o.image, "object": int(j), "class": int(k), "stage": STAGES[s]}
            for o in objects
            for j, k, s in zip(o.index, o.label, o.stage, strict=True)
            if s != FOUND
        ],
    }


def _nms_sweep(candidates: Sequence[Any], records: Annotations, head: RoIHead) -> list[dict[str, float | None]]:
    """Return AP and AP50 by the IoU above which NMS drops boxes, from the boxes that went into it."""
    seen = np.zeros(len(records), dtype=bool)
    seen[[i for i, *_ in candidates]] = True
    truth = records.select(seen).to_coco()
    result = []
    for iou in sorted({*NMS_IOUS, round(head.nms_iou, 4)}):
        rows: list[dict[str, Any]] = []
        for i, resized, original, boxes, labels, scores in candidates:
            keep = batched_nms(boxes, scores, labels, iou)[: head.max_detections]
            scaled = scale_back(boxes[keep].float(), resized, original)
            detections: Any = {"boxes": scaled, "labels": labels[keep] + 1, "scores": scores[keep]}
            rows += coco_results(as_rows(detections), records.image_ids[i], records.category_ids)
        scene = scene_from_coco(truth, rows)
        ap = average_precision(scene, match(scene, overlapping_pairs(scene)))
        result.append({"iou": iou, "AP": mean(ap), "AP50": mean(ap[0]), "used": iou == round(head.nms_iou, 4)})
    return result
