"""Which ground truth a box belongs to, by IoU (Faster R-CNN, section 3.1.2; Fast R-CNN, section 2.3)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from detection.ops.boxes import iou

FOREGROUND, BACKGROUND, IGNORED = 1, 0, -1
# pairs compared at once: 4M floats, so that a thousand objects against 60,000 anchors need 64 MB and not a gigabyte
MAX_PAIRS = 1 << 22


class Matcher:
    """Labels boxes by their best IoU with the ground truth.

    Args:
        foreground: at this IoU and above a box is foreground.
        background: from ``background_low`` to below this it is background; between the two it is ignored.
        background_low: below it a box is ignored as well (Fast R-CNN: 0.1; now 0).
        keep_best: also the best boxes of every object are foreground, all that share its highest IoU (the RPN's rule i).
    """

    def __init__(
        self, foreground: float, background: float, background_low: float = 0.0, keep_best: bool = False
    ) -> None:
        if not 0 <= background_low <= background <= foreground <= 1:
            raise ValueError(
                "matching wants 0 <= background_low <= background <= foreground <= 1, "
                f"got {background_low}, {background}, {foreground}"
            )
        self.foreground, self.background, self.background_low = foreground, background, background_low
        self.keep_best = keep_best

    @torch.no_grad()
    def __call__(
        self, truth: Float[Tensor, "g 4"], boxes: Float[Tensor, "n 4"]
    ) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Return (index, label): the object with the highest IoU (int64; 0 without objects) and FOREGROUND, BACKGROUND
        or IGNORED (int8). Without objects every box is background."""
        if len(truth) == 0 or len(boxes) == 0:
            zeros = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
            return zeros, zeros.to(torch.int8)
        chunks = boxes.split(max(1, MAX_PAIRS // len(truth)))
        overlaps = iou(truth, boxes) if len(chunks) == 1 else None
        best, index = _best_object(truth, chunks, overlaps)
        foreground = best >= self.foreground
        if self.keep_best:
            foreground |= _best_boxes(truth, chunks, overlaps)
        label = torch.full_like(index, IGNORED, dtype=torch.int8)
        label.masked_fill_((best >= self.background_low) & (best < self.background), BACKGROUND)
        return index, label.masked_fill_(foreground, FOREGROUND)


def _best_object(truth: Tensor, chunks: tuple[Tensor, ...], overlaps: Tensor | None) -> tuple[Tensor, Tensor]:
    if overlaps is not None:
        best, index = overlaps.max(dim=0)
        return best, index
    values, indices = zip(*(iou(truth, chunk).max(dim=0) for chunk in chunks), strict=True)
    return torch.cat(values), torch.cat(indices)


def _best_boxes(truth: Tensor, chunks: tuple[Tensor, ...], overlaps: Tensor | None) -> Tensor:
    """Return the mask [n] of the boxes that reach the highest IoU of some object, where that is above 0."""
    if overlaps is not None:
        highest = overlaps.amax(dim=1, keepdim=True)
        return ((overlaps == highest) & (highest > 0)).any(dim=0)
    highest = torch.stack([iou(truth, chunk).amax(dim=1) for chunk in chunks]).amax(dim=0)[:, None]
    return torch.cat([((iou(truth, chunk) == highest) & (highest > 0)).any(dim=0) for chunk in chunks])
