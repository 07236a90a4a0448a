"""Faster R-CNN: one map (or a pyramid), the RPN and the RoI head on it. Knows its parts, not how they are configured."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from backbone import RECIPES, Recipe
from detection.modeling.anchors import make_anchors
from detection.modeling.architectures import Architecture, make_head, take_apart
from detection.modeling.roi_head import RoIHead, TwoLayerHead, without_padding
from detection.modeling.roi_pooler import RoIPooler
from detection.modeling.rpn import RPN
from detection.modeling.structures import Detections, Target, check_images, check_range, check_targets
from detection.ops.device import can_read, use_padding

_LOG = logging.getLogger(__name__)
Options = Mapping[str, Any]
_NONE: Options = {}


class FasterRCNN(nn.Module):
    """The detector (Faster R-CNN, figure 2; ResNet paper, appendix A).

    Args:
        backbone: a network of ``backbone``; any module with ``specs`` ({"c4": FeatureSpec(channels, stride)}) whose forward
            returns those maps; or one with ``out_channels`` and ``stride`` whose forward returns one map. Its parameters are
            shared. Images have as many channels as its ``in_channels`` says, where it is given, else 3.
        num_classes: K, without the background.
        architecture: c4 (conv5_x is the head of every region), dc5 (a dilated conv5_x in the trunk, two fully connected
            layers), or fpn (a feature pyramid, two fully connected layers). A module that cannot be split gives its coarsest
            map for c4 and dc5.
        head: in place of the architecture's: pooled regions [R, C, S, S] -> [R, F] or [R, F, s, s], with ``out_channels``.
        recipe: how the weights of the backbone expect their images, or its name; None takes ``backbone.recipe``, else
            torchvision's.
        fpn_channels: of a pyramid's levels.
        anchors: keywords of :func:`detection.modeling.anchors.make_anchors`.
        rpn: keywords of :class:`RPN`.
        roi: keywords of :class:`RoIPooler`, :class:`RoIHead` and :class:`TwoLayerHead`.
        padded: proposals and detections have a fixed number of slots, so that nothing waits for a GPU; None pads
            everywhere but on a CPU. The result of ``model(images)`` is the same.

    ``model(images, targets)`` in training returns the losses ``loss_objectness``, ``loss_rpn_box``, ``loss_classifier``
    and ``loss_box``; ``model(images)`` in evaluation a list of ``{"boxes", "labels", "scores"}``. Images are float
    RGB 0..1 [3, H, W] at the size that the network takes, targets and detections in their pixels, in torchvision's
    convention.

    Raises:
        ValueError: parts that do not go together, or fewer than one class.
        TypeError: an unknown keyword, or a module that does not say what its maps are.
    """

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        architecture: Architecture = "c4",
        head: nn.Module | None = None,
        recipe: Recipe | str | None = None,
        fpn_channels: int = 256,
        anchors: Options = _NONE,
        rpn: Options = _NONE,
        roi: Options = _NONE,
        padded: bool | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"a detector needs at least one class, got {num_classes}")
        recipe = recipe or getattr(backbone, "recipe", None) or "torchvision"
        self.recipe: Recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
        channels = getattr(backbone, "in_channels", 3)
        self.in_channels = channels if isinstance(channels, int) else 3
        self.recipe = self.recipe.for_channels(self.in_channels)
        self.architecture, self.padded = architecture, padded
        self._range_checked = self._range_doubted = False
        parts = take_apart(backbone, architecture, fpn_channels)
        self.divisor = parts.divisor
        self.trunk = parts.trunk
        pooling, two_layers, classifying = _divide("roi", roi, RoIPooler, TwoLayerHead, RoIHead)
        resolution = pooling.setdefault("resolution", parts.resolution)
        roi_features, channels = make_head(parts, head, resolution, two_layers)
        (rpn_options,) = _divide("rpn", rpn, RPN)
        generators = make_anchors([spec.stride for spec in parts.maps], **anchors)
        self.rpn = RPN(parts.maps[0].channels, generators, **rpn_options)
        bin_stride = parts.bin_stride if head is None else 1
        pooler = RoIPooler([spec.stride for spec in parts.pooled], **{"bin_stride": bin_stride} | pooling)
        chunk_size = {} if head is not None else {"chunk_size": parts.chunk_size}
        self.roi_head = RoIHead(pooler, roi_features, channels, num_classes, **chunk_size | classifying)
        # buffers, so that they are on the model's device
        scale, shift = self.recipe.affine(torch.get_default_device())
        self.register_buffer("pixel_scale", scale, persistent=False)
        self.register_buffer("pixel_shift", shift, persistent=False)

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Target] | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Return losses in training, detections in evaluation. ``generator`` draws the samples (default: torch's own).

        Raises:
            TypeError, ValueError: images or targets of another form, or images far from 0..1; names the first.
        """
        check_images(images, self.in_channels)
        self._check_range(images)
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        if self.training:
            targets = list(check_targets(targets, images, self.roi_head.num_classes))
            return self.losses(self.batch(images), sizes, targets, generator)
        with torch.no_grad():
            batch = self.batch(images)
            detections = self.detect(batch, sizes)
            return without_padding(detections) if use_padding(self.padded, batch.device) else detections

    def _check_range(self, images: Sequence[Tensor]) -> None:
        """Warn once of images that are not in 0..1, and refuse those far from it. On a GPU only the first images of
        evaluation are looked at, and none in training, where reading them would be a host-device synchronisation."""
        if not can_read(images[0]) and (self.training or self._range_checked):
            return
        doubt = check_range(images)
        if doubt and not self._range_doubted:
            _LOG.warning("%s", doubt)
            self._range_doubted = True
        self._range_checked = True

    def detect(self, batch: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Return the detections of a normalised batch. In the padded form there are always as many, padded slots last
        (:func:`detection.modeling.roi_head.without_padding`), and no host-device synchronisation happens."""
        padded = use_padding(self.padded, batch.device)
        features = self.trunk(batch)
        proposals = self.rpn.proposals(self.rpn(features), sizes, padded)
        return self.roi_head.detections(features, proposals, sizes, padded)

    def losses(
        self,
        batch: Tensor,
        sizes: Sequence[tuple[int, int]],
        targets: list[Target],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the four losses of a normalised batch, in either mode of the norms (validation asks for them too)."""
        padded = use_padding(self.padded, batch.device)
        features = self.trunk(batch)
        output = self.rpn(features)
        # training's limits in validation too, so that the losses compare
        proposals = self.rpn.proposals(output, sizes, padded, for_losses=True)
        losses = self.rpn.losses(output, sizes, targets, generator, padded)
        return losses | self.roi_head.losses(features, proposals, targets, generator, padded, sizes)

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """Normalise images and pad them with zeros at the right and the bottom to the largest one's size, or to the next
        multiple of ``divisor``: [N, C, H, W].

        The layout is channels_last, in which convolutions run fastest on CPUs and tensor cores alike.
        """
        height, width = (
            -(-max(image.shape[side] for image in images) // self.divisor) * self.divisor for side in (-2, -1)
        )
        dtype = torch.promote_types(images[0].dtype, torch.float32)
        batch = torch.zeros(len(images), self.in_channels, height, width, device=images[0].device, dtype=dtype)
        batch = batch.contiguous(memory_format=torch.channels_last)
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[-2], : image.shape[-1]] = self.recipe.normalise(
                image.to(dtype), (self.pixel_scale, self.pixel_shift)
            )
        return batch


def _divide(name: str, options: Options, *takers: Callable[..., Any]) -> list[dict[str, Any]]:
    """Return for each of ``takers`` those of the options that are its keywords.

    Raises:
        TypeError: an option that none of them has; lists those there are.
    """
    known = [keyword_defaults(taker) for taker in takers]
    unknown = [key for key in options if not any(key in keywords for keywords in known)]
    if unknown:
        raise TypeError(f"{name} has no option {unknown[0]!r}; it has {', '.join(sorted(set().union(*known)))}")
    return [{key: value for key, value in options.items() if key in keywords} for keywords in known]


def keyword_defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the keyword-only parameters of a function, or of a class' constructor, with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
