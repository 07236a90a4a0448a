"""Non-maximum suppression (Faster R-CNN, section 3.1.2): keep the boxes that no better kept box overlaps too much.

On a CPU one set of boxes at a time, and no more of it than is wanted. On a GPU all sets at once, as a mask of fixed size:
how many boxes are left is not read back, so there is no sync, and the whole detector can be recorded as a CUDA graph.
"""

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import nms

_LOG = logging.getLogger(__name__)
WORD = torch.iinfo(torch.int64).bits  # boxes whose bits fill an int64
MaskNms = Callable[[Tensor, Tensor, float, int], Tensor]


def nms_topk(boxes: Tensor, scores: Tensor, iou: float, limit: int) -> Tensor:
    """Return ``nms(boxes, scores, iou)[:limit]`` of boxes [n, 4] that are sorted by score.

    What is kept among the first boxes does not depend on those behind them, so a CPU looks at as few as suffice.
    """
    count = min(2 * limit, len(boxes)) if boxes.device.type == "cpu" else len(boxes)
    while True:
        kept = nms(boxes[:count], scores[:count], iou)
        if len(kept) >= limit or count == len(boxes):
            return kept[:limit]
        count = min(2 * count, len(boxes))


def batched_nms_mask(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    """Run NMS on many sets at once, without a host-device synchronisation.

    Args:
        boxes: [B, n, 4] xyxy (a GPU compares them in float32), each set sorted by score, the best first.
        valid: bool [B, n]; others are neither kept nor suppress.
        iou: a box is suppressed by a better one that is kept and overlaps it by more.
        limit: boxes kept in a set at most.

    Returns:
        bool [B, n]: which are kept; in each set those that ``nms`` keeps first.
    """
    kept: Tensor = torch.ops.resdet.batched_nms_mask(boxes, valid, iou, limit)
    return kept


@torch.library.custom_op("resdet::batched_nms_mask", mutates_args=())
def _batched_nms_mask(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    if has_kernel(boxes.device):
        return _kernel(boxes, valid, iou, limit)
    kept = torch.zeros_like(valid)
    for set_kept, set_boxes, set_valid in zip(kept, boxes, valid, strict=True):
        index = set_valid.nonzero()[:, 0]  # a sync on a GPU without the kernel
        scores = torch.arange(len(index), 0, -1, dtype=boxes.dtype, device=boxes.device)
        set_kept[index[nms_topk(set_boxes[index], scores, iou, limit)]] = True
    return kept


@_batched_nms_mask.register_fake
def _(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    return torch.empty_like(valid)


@functools.cache
def has_kernel(device: torch.device) -> bool:
    """Return whether :func:`batched_nms_mask` runs on a device without a sync: on a GPU where Triton works, which wants a C
    compiler at its first use, and passes :func:`check_nms`. Elsewhere torchvision's NMS is used, with a warning."""
    if device.type != "cuda":
        return False
    try:
        fault = check_nms(_kernel, device)
    except Exception as error:  # not installed, no compiler, no headers, an old GPU
        fault = str(error).strip().partition("\n")[0] or type(error).__name__
    if fault:
        _LOG.warning("NMS is torchvision's, which synchronises with the GPU: Triton's does not work here (%s)", fault)
    return not fault


def check_nms(kernel: MaskNms, device: torch.device) -> str:
    """Compare a kernel with torchvision's NMS on a CPU, on a small fixed case of two sets; return what is wrong, or "".

    The case has 130 boxes (three words of bits), equal boxes, empty ones, invalid ones, and a limit that is reached.
    """
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 130, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + torch.rand(2, 130, 2, generator=generator) * 60), dim=2)
    boxes[:, 7], boxes[:, 9, 2:] = boxes[:, 3], boxes[:, 9, :2]
    valid = torch.rand(2, 130, generator=generator) > 0.2
    scores = torch.arange(130, 0, -1, dtype=torch.float32)
    for limit in (130, 12):
        wanted = torch.zeros_like(valid)
        for i in range(2):
            index = valid[i].nonzero()[:, 0]
            wanted[i, index[nms(boxes[i, index], scores[index], 0.5)[:limit]]] = True
        kept = kernel(boxes.to(device), valid.to(device), 0.5, limit).cpu()
        if not torch.equal(kept, wanted):
            return f"{int((kept != wanted).sum())} of {wanted.numel()} boxes differ from torchvision's in its self-test"
    return ""


def _kernel(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    from detection.ops import nms_triton  # a second to import, and there on GPUs alone

    with torch.cuda.device(boxes.device):  # Triton launches on the current one
        words = nms_triton.batched_nms_mask(boxes.float().contiguous(), as_words(valid), iou, limit)
    return from_words(words, valid.shape[1])


def as_words(bits: Tensor) -> Tensor:
    """Pack bool [B, n] into int64 [B, ceil(n / 64)], the first of a word's 64 its lowest bit."""
    missing = -bits.shape[1] % WORD
    padded = torch.nn.functional.pad(bits, (0, missing)).unflatten(1, (-1, WORD)).long()
    return (padded << torch.arange(WORD, device=bits.device)).sum(dim=2)


def from_words(words: Tensor, n: int) -> Tensor:
    """Unpack what :func:`as_words` packs: bool [B, n]."""
    bits = (words[:, :, None] >> torch.arange(WORD, device=words.device)) & 1
    return bits.bool().flatten(1)[:, :n].contiguous()
