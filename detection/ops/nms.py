"""Non-maximum suppression: which boxes lie apart from all better ones (Faster R-CNN, section 3.1.2).

On a CPU one set of boxes at a time, and no more of it than is wanted. On a device all sets at once, as a mask of fixed size:
how many boxes are left is not asked, so the host does not wait, and the whole detector can be recorded as a CUDA graph.
"""

import functools
import logging

import torch
from torch import Tensor
from torchvision.ops import nms

_LOG = logging.getLogger(__name__)
WORD = torch.iinfo(torch.int64).bits  # boxes whose bits fill an int64


def nms_topk(boxes: Tensor, scores: Tensor, iou: float, limit: int) -> Tensor:
    """``nms(boxes, scores, iou)[:limit]`` of boxes [n, 4] that are sorted by score.

    What is kept among the first boxes does not depend on those behind them, so a CPU looks at as few as suffice.
    """
    count = min(2 * limit, len(boxes)) if boxes.device.type == "cpu" else len(boxes)
    while True:
        kept = nms(boxes[:count], scores[:count], iou)
        if len(kept) >= limit or count == len(boxes):
            return kept[:limit]
        count = min(2 * count, len(boxes))


def apart(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    """NMS of many sets at once, without waiting for the device.

    Args:
        boxes: [B, n, 4] xyxy (compared in float32), each set sorted by score, the best first.
        valid: bool [B, n]; others neither stay nor suppress.
        iou: a box is suppressed by a better one that stays and overlaps it by more.
        limit: boxes that stay in a set at most.

    Returns:
        bool [B, n]: which stay; in each set those that ``nms`` keeps first.
    """
    kept: Tensor = torch.ops.resdet.apart(boxes, valid, iou, limit)
    return kept


@torch.library.custom_op("resdet::apart", mutates_args=())
def _apart(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    if has_kernel(boxes.device):
        return from_words(_by_kernel(boxes.float().contiguous(), as_words(valid), iou, limit), valid.shape[1])
    kept = torch.zeros_like(valid)
    for own, own_boxes, own_valid in zip(kept, boxes, valid, strict=True):
        place = own_valid.nonzero()[:, 0]  # a device without the kernel is waited for
        scores = torch.arange(len(place), 0, -1, dtype=torch.float32, device=boxes.device)
        own[place[nms_topk(own_boxes[place], scores, iou, limit)]] = True
    return kept


@_apart.register_fake
def _(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    return torch.empty_like(valid)


@functools.cache
def has_kernel(device: torch.device) -> bool:
    """Whether :func:`apart` runs on a device without being waited for: on a GPU where Triton works, which wants a C compiler
    when it is first used."""
    if device.type != "cuda":
        return False
    try:
        _by_kernel(torch.zeros(1, 1, 4, device=device), torch.ones(1, 1, dtype=torch.int64, device=device), 0.5, 1)
    except Exception as error:  # not installed, no compiler, no headers, an old GPU
        reason = str(error).strip().partition("\n")[0]
        _LOG.warning("NMS is torchvision's, for which the GPU is waited for: Triton does not work here (%s)", reason)
        return False
    return True


def _by_kernel(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    from detection.ops import nms_triton  # a second to import, and there on GPUs alone

    with torch.cuda.device(boxes.device):  # Triton launches on the current one
        return nms_triton.apart(boxes, valid, iou, limit)


def as_words(bits: Tensor) -> Tensor:
    """bool [B, n] -> int64 [B, ceil(n / 64)], the first of a word's 64 its lowest bit."""
    missing = -bits.shape[1] % WORD
    padded = torch.nn.functional.pad(bits, (0, missing)).unflatten(1, (-1, WORD)).long()
    return (padded << torch.arange(WORD, device=bits.device)).sum(dim=2)


def from_words(words: Tensor, n: int) -> Tensor:
    """The reverse of :func:`as_words`: bool [B, n]."""
    bits = (words[:, :, None] >> torch.arange(WORD, device=words.device)) & 1
    return bits.bool().flatten(1)[:, :n].contiguous()
