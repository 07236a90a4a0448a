"""NMS on a GPU in two Triton kernels: which boxes overlap, as bits, then one pass through each set, 64 boxes at a time."""

import torch
import triton
import triton.language as tl
from torch import Tensor

WORD = torch.iinfo(torch.int64).bits  # boxes in a word of bits, and in a tile's row and column
_ROWS = 16  # of the bits that are joined at a time


def batched_nms_mask(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    """Return the bits of the boxes that are kept, int64 [B, W].

    Args:
        boxes: float32 [B, n, 4], contiguous, each set sorted by score.
        valid: int64 [B, W], W = ceil(n / 64), bits of the boxes that count.
        iou, limit: as of :func:`detection.ops.nms.batched_nms_mask`.
    """
    sets, n, _ = boxes.shape
    words = valid.shape[1]
    kept = torch.zeros_like(valid)
    if not sets or not n:
        return kept
    # written where both 64 rows and 64 columns have a valid box; elsewhere never read
    overlaps = torch.empty(sets, words * WORD, words, dtype=torch.int64, device=boxes.device)
    _overlaps[(sets, words, words)](boxes, valid, overlaps, n, words, iou, WORD=WORD)
    _pass_through[(sets,)](overlaps, valid, kept, words, limit, COLUMNS=triton.next_power_of_2(words), ROWS=_ROWS)
    return kept


@triton.jit
def _overlaps(boxes, valid, overlaps, n, words, iou, WORD: tl.constexpr):
    """Bit c of overlaps[set, r, word]: box r suppresses box word·64 + c, which comes behind it."""
    own, rows, columns = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    wanted = (tl.load(valid + own * words + rows) != 0) & (tl.load(valid + own * words + columns) != 0)
    if (columns >= rows) & wanted:
        r = rows * WORD + tl.arange(0, WORD)
        c = columns * WORD + tl.arange(0, WORD)
        first = boxes + own * n * 4
        rx1 = tl.load(first + r * 4, mask=r < n, other=0.0)[:, None]
        ry1 = tl.load(first + r * 4 + 1, mask=r < n, other=0.0)[:, None]
        rx2 = tl.load(first + r * 4 + 2, mask=r < n, other=0.0)[:, None]
        ry2 = tl.load(first + r * 4 + 3, mask=r < n, other=0.0)[:, None]
        cx1 = tl.load(first + c * 4, mask=c < n, other=0.0)[None, :]
        cy1 = tl.load(first + c * 4 + 1, mask=c < n, other=0.0)[None, :]
        cx2 = tl.load(first + c * 4 + 2, mask=c < n, other=0.0)[None, :]
        cy2 = tl.load(first + c * 4 + 3, mask=c < n, other=0.0)[None, :]
        width = tl.maximum(tl.minimum(rx2, cx2) - tl.maximum(rx1, cx1), 0.0)
        height = tl.maximum(tl.minimum(ry2, cy2) - tl.maximum(ry1, cy1), 0.0)
        intersection = width * height
        union = (rx2 - rx1) * (ry2 - ry1) + (cx2 - cx1) * (cy2 - cy1) - intersection
        # rounded as torchvision's is; 0 / 0 is no overlap
        over = (tl.math.div_rn(intersection, union) > iou) & (c[None, :] > r[:, None]) & (c < n)[None, :]
        bits = tl.sum(over.to(tl.int64) << tl.arange(0, WORD)[None, :].to(tl.int64), axis=1)
        tl.store(overlaps + (own * words * WORD + r) * words + columns, bits)


@triton.jit
def _either(a, b):
    return a | b


@triton.jit
def _pass_through(overlaps, valid, kept, words, limit, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """One set: 64 boxes are decided one by one from the bits among themselves, then remove what they suppress."""
    own = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    struck = tl.zeros([COLUMNS], tl.int64)
    count = tl.full([], 0, tl.int32)
    block = tl.full([], 0, tl.int32)
    while (block < words) & (count < limit):
        candidates = tl.load(valid + own * words + block) & ~tl.sum(tl.where(column == block, struck, 0))
        if candidates != 0:
            first = overlaps + (own * words + block) * 64 * words
            stays = tl.full([], 0, tl.int64)
            for i in range(64):
                take = (candidates >> i) & 1 & (count < limit).to(tl.int64)
                stays |= take << i
                candidates &= ~(tl.load(first + i * words + block) * take)
                count += take.to(tl.int32)
            tl.store(kept + own * words + block, stays)
            for begin in range(0, 64, ROWS):
                row = begin + tl.arange(0, ROWS)
                chosen = ((stays >> row.to(tl.int64)) & 1) != 0
                seen = chosen[:, None] & ((column > block) & (column < words))[None, :]
                bits = tl.load(first + row[:, None] * words + column[None, :], mask=seen, other=0)
                struck |= tl.reduce(bits, 0, _either)
        block += 1
