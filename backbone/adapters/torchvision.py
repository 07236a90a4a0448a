"""Adapter to torchvision's detectors: FasterRCNN, MaskRCNN, RetinaNet, FCOS, KeypointRCNN."""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from backbone.resnet import ResNet, Trunk


class TorchvisionBackbone(nn.Module):
    """A backbone for torchvision's detectors: ``out_channels``, and feature maps by name, finest first.

    With an FPN its key names are those of torchvision's ``resnet_fpn_backbone``, whose weights load strictly.

    Args:
        net: the network, whose parameters it shares.
        levels: first and last feature map: ("c2", "c5") for FasterRCNN and MaskRCNN with FPN, ("c3", "c5") for RetinaNet
            and FCOS, ("c4", "c4") for a single feature map.
        channels: of the FPN's levels; None for a single feature map without FPN.
        extra: coarser levels on top: "pool" (FasterRCNN's P6), "p6p7" (RetinaNet's and FCOS's), or None.

    Raises:
        ValueError: unknown levels or extra, or several levels without FPN.

    >>> import torch
    >>> from backbone import resnet50
    >>> from torchvision.models.detection import FasterRCNN
    >>> detector = FasterRCNN(TorchvisionBackbone(resnet50(norm="frozen_bn")), num_classes=91).eval()
    >>> sorted(detector([torch.rand(3, 200, 300)])[0])
    ['boxes', 'labels', 'scores']
    """

    def __init__(
        self,
        net: ResNet,
        levels: tuple[str, str] = ("c2", "c5"),
        channels: int | None = 256,
        extra: Literal["pool", "p6p7"] | None = "pool",
    ) -> None:
        super().__init__()
        names = list(net.specs)[1:]
        if not (levels[0] in names and levels[1] in names and levels[0] <= levels[1]) or extra not in (
            "pool",
            "p6p7",
            None,
        ):
            raise ValueError(
                f"expected levels (first, last) of {', '.join(names)} and extra of pool, p6p7, None; got {levels}, {extra!r}"
            )
        first, last = (int(level.removeprefix("c")) for level in levels)
        if channels is None and first != last:
            raise ValueError(
                f"several levels {levels} need an FPN (channels=256); give one level for none, such as ('c4', 'c4')"
            )
        self.body = Trunk(net, levels[1])
        self.first = first - 1
        self.fpn = None
        self.out_channels = net.specs[levels[1]].channels
        if channels is not None:
            extra_blocks: ExtraFPNBlock | None = LastLevelMaxPool() if extra == "pool" else None
            if extra == "p6p7":
                extra_blocks = LastLevelP6P7(channels, channels)
            in_channels = [net.specs[f"c{i}"].channels for i in range(first, last + 1)]
            self.fpn = FeaturePyramidNetwork(in_channels, channels, extra_blocks)
            self.out_channels = channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Return the feature maps "0", "1", … and the extra levels for normalised images [N, 3, H, W]."""
        maps = OrderedDict((str(i), m) for i, m in enumerate(self.body.maps(x)[self.first :]))
        return maps if self.fpn is None else self.fpn(maps)
