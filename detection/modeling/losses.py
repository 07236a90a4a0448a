"""The losses of RPN and RoI head, as sums over a normaliser that all ranks share (Faster R-CNN, equation 1)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from detection.modeling.matcher import FOREGROUND, IGNORED
from detection.ops.boxes import at_least_float32


def smooth_l1(prediction: Tensor, target: Tensor, beta: float) -> Float[Tensor, ""]:
    """Return the sum of ``0.5·d²/beta`` below ``beta`` and ``d - 0.5·beta`` above; ``beta`` 0 is L1.

    Fast R-CNN's form is beta 1; py-faster-rcnn's RPN (sigma 3) is beta 1/9; detectron2 trains with 0.
    """
    if beta == 0:
        return F.l1_loss(prediction, target, reduction="sum")
    return F.smooth_l1_loss(prediction, target, beta=beta, reduction="sum")


def normaliser(count: int | Tensor, device: torch.device, over_ranks: bool) -> Tensor:
    """Return ``count`` as a float32 scalar, at least 1; in training (``over_ranks``) its mean over all processes.

    Gradients are averaged over ranks, so a loss over this mean is the sum over all ranks' samples divided by their
    number: two processes with half of the batch each equal one with all of it.
    """
    # filled on the device: copying a number there would be a sync
    total = count.float() if isinstance(count, Tensor) else torch.full((), float(count), device=device)
    if over_ranks and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
        total /= dist.get_world_size()
    return total.clamp(min=1.0)


def objectness_loss(logits: Float[Tensor, " n"], kind: Int[Tensor, " n"], count: Tensor) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of the sampled anchors: the one-logit form of the paper's two-class softmax.

    ``kind`` is FOREGROUND, BACKGROUND, or IGNORED, which adds nothing.
    """
    logits = at_least_float32(logits)
    target, counted = (kind == FOREGROUND).to(logits), (kind != IGNORED).to(logits)
    return F.binary_cross_entropy_with_logits(logits, target, weight=counted, reduction="sum") / count


def classification_loss(
    logits: Float[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    count: Tensor,
    weights: Float[Tensor, " k"] | None = None,
    gamma: float = 0.0,
) -> Float[Tensor, ""]:
    """Return the softmax cross-entropy of the sampled RoIs; label 0 is the background, and IGNORED adds nothing.

    Args:
        logits: of each RoI.
        labels: of each RoI.
        count: the sum is divided by it.
        weights: factor on the loss of each label.
        gamma: of the focal loss (Lin et al., 2017, equation 5, of the softmax's p): -(1 - p)^gamma log p; 0 is the
            cross-entropy.
    """
    logits = at_least_float32(logits)
    if gamma == 0:
        return F.cross_entropy(logits, labels, weights, reduction="sum", ignore_index=IGNORED) / count
    loss = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)  # -log p, 0 where ignored
    # 1 - p without the rounding of 1; above 0, where a power below 1 has no gradient
    modulated = (-torch.expm1(-loss)).clamp(min=torch.finfo(loss.dtype).tiny) ** gamma * loss
    return (modulated if weights is None else modulated * weights[labels.clamp(min=0)]).sum() / count


def box_loss(
    deltas: Float[Tensor, "n 4"],
    target: Float[Tensor, "n 4"],
    counted: Bool[Tensor, " n"],
    beta: float,
    count: Tensor,
) -> Float[Tensor, ""]:
    """Return the smooth L1 loss of the offsets that are counted, the foreground's; the count is that of all samples."""
    deltas = at_least_float32(deltas)
    # one that is not counted is its own target: no loss, and a gradient of 0, whatever stands in ``target``
    return smooth_l1(deltas, torch.where(counted[:, None], target.to(deltas), deltas.detach()), beta) / count
