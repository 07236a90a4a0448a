"""Boxes as offsets from reference boxes, and back (Faster R-CNN, equation 2)."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from detection.ops.boxes import at_least_float32

# a larger exp() would overflow before it means anything: 1000/16 times the reference box (as in Detectron)
MAX_LOG_SCALE = math.log(1000.0 / 16)


class BoxCoder(nn.Module):
    """Encodes and decodes with weights on (x, y, w, h).

    Args:
        weights: (1, 1, 1, 1) for the RPN; (10, 10, 5, 5) for RoIs, the inverse of the deviations that Fast R-CNN
            normalises its targets by.
    """

    weights: Tensor

    def __init__(self, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> None:
        super().__init__()
        # a buffer, so that it is on the model's device
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32), persistent=False)

    def encode(self, boxes: Float[Tensor, "n 4"], reference: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Return the offsets that lead from each reference to its box; both need positive sides."""
        size, ref_size = boxes[:, 2:] - boxes[:, :2], reference[:, 2:] - reference[:, :2]
        centre, ref_centre = boxes[:, :2] + size / 2, reference[:, :2] + ref_size / 2
        shift = (centre - ref_centre) / ref_size
        scale = torch.log(size / ref_size)
        return torch.cat((shift, scale), dim=1) * self.weights.to(boxes)

    def encode_matched(
        self, truth: Float[Tensor, "g 4"], index: Int[Tensor, " n"], reference: Float[Tensor, "n 4"]
    ) -> Float[Tensor, "n 4"]:
        """Return :meth:`encode` of the objects at ``index``; zeros where there are none at all."""
        return self.encode(truth[index], reference) if len(truth) else torch.zeros_like(reference)

    def decode(
        self, deltas: Float[Tensor, "*batch 4"], reference: Float[Tensor, "*batch 4"]
    ) -> Float[Tensor, "*batch 4"]:
        """Return the boxes that the offsets lead to, at least in float32; the growth of a side is limited to 62.5 times."""
        deltas = at_least_float32(deltas)
        deltas = deltas / self.weights.to(deltas)
        ref_size = reference[..., 2:] - reference[..., :2]
        centre = reference[..., :2] + ref_size / 2 + deltas[..., :2] * ref_size
        half = torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * ref_size / 2
        return torch.cat((centre - half, centre + half), dim=-1)
