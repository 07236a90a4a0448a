"""Faster R-CNN: one map (or a pyramid), the RPN and the RoI head on it. Knows its parts, not how they are configured."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detection.modeling.roi_head import RoIHead, without_empty
from detection.modeling.rpn import RPN
from detection.modeling.structures import Detections, Target, check_images, check_targets


class FasterRCNN(nn.Module):
    """The detector (Faster R-CNN, figure 2; ResNet paper, appendix A).

    Args:
        trunk: normalised images [N, 3, H, W] -> the shared map, or the levels of a pyramid.
        rpn, roi_head: its two readers.
        recipe: how the trunk's weights want their pictures; ``recipe.normalise`` takes float RGB 0..1.
        divisor: height and width of a batch are padded to a multiple of this (a pyramid: 32).

    ``model(images, targets)`` in training gives the losses ``loss_objectness``, ``loss_rpn_box``, ``loss_classifier``
    and ``loss_box``; ``model(images)`` in evaluation a list of ``{"boxes", "labels", "scores"}``. Images are float
    RGB 0..1 [3, H, W] at the size at which they are to be seen, targets and detections in their pixels, in torchvision's
    convention.
    """

    def __init__(self, trunk: nn.Module, rpn: RPN, roi_head: RoIHead, recipe: Any, divisor: int = 1) -> None:
        super().__init__()
        self.divisor = divisor
        self.trunk, self.rpn, self.roi_head, self.recipe = trunk, rpn, roi_head, recipe
        # buffers, so that they are on the device when they are wanted
        scale, shift = recipe.affine(torch.get_default_device())
        self.register_buffer("pixel_scale", scale, persistent=False)
        self.register_buffer("pixel_shift", shift, persistent=False)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Losses in training, detections in evaluation. ``generator`` draws the samples (default: torch's own).

        Raises:
            TypeError, ValueError: images or targets of another form; names the one.
        """
        check_images(images)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        if self.training:
            targets = list(check_targets(targets, images, self.roi_head.num_classes))
            return self.losses(self.batch(images), sizes, targets, generator)
        with torch.no_grad():
            batch = self.batch(images)
            found = self.detect(batch, sizes)
            return found if batch.device.type == "cpu" else without_empty(found)

    def detect(self, batch: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of a normalised batch. On a device they are always as many, the empty places last
        (:func:`detection.modeling.roi_head.without_empty`), and nothing is waited for."""
        features = self.trunk(batch)
        proposals = self.rpn.proposals(self.rpn(features), sizes)
        return self.roi_head.detections(features, proposals, sizes)

    def losses(
        self,
        batch: Tensor,
        sizes: Sequence[tuple[int, int]],
        targets: list[Target],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """The four losses of a normalised batch, in either mode of the norms (so that validation can ask for them)."""
        features = self.trunk(batch)
        output = self.rpn(features)
        proposals = self.rpn.proposals(output, sizes)
        losses = self.rpn.losses(output, sizes, targets, generator)
        return losses | self.roi_head.losses(features, proposals, targets, generator)

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """Images normalised and, with zeros at the right and the bottom, brought to the largest one's size, or to the next
        multiple of ``divisor``.

        The layout is channels_last, in which convolutions run fastest on CPUs and tensor cores alike.
        """
        height, width = (
            -(-max(image.shape[side] for image in images) // self.divisor) * self.divisor for side in (-2, -1)
        )
        dtype = torch.promote_types(images[0].dtype, torch.float32)
        batch = torch.zeros(len(images), 3, height, width, device=images[0].device, dtype=dtype)
        batch = batch.contiguous(memory_format=torch.channels_last)
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[-2], : image.shape[-1]] = self.recipe.normalise(
                image.to(dtype), (self.pixel_scale, self.pixel_shift)
            )
        return batch
