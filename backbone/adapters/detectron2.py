"""Adapter to detectron2: importing this module registers ``build_resdet_backbone``, ``build_resdet_fpn_backbone`` and
``ResDetRes5ROIHeads``, for MODEL.BACKBONE.NAME and MODEL.ROI_HEADS.NAME.

State dicts have detectron2's key names, so that checkpoints are exchangeable in both directions.

>>> import torch
>>> from detectron2 import model_zoo
>>> from detectron2.modeling import build_model
>>> cfg = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml")
>>> cfg.MODEL.BACKBONE.NAME, cfg.MODEL.ROI_HEADS.NAME = "build_resdet_backbone", "ResDetRes5ROIHeads"
>>> cfg.MODEL.DEVICE = "cpu"
>>> model = build_model(cfg).eval()
>>> model([{"image": torch.zeros(3, 64, 64)}])[0]["instances"].image_size
(64, 64)
"""

from collections.abc import Callable
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ROI_HEADS_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import Tensor, nn

from backbone.blocks import BasicBlock, Bottleneck
from backbone.layouts import to_detectron2, to_torchvision
from backbone.resnet import DEPTHS, Conv5, ResNet, Trunk

_DEPTHS = {layers: DEPTHS[f"resnet{layers}"] for layers in (18, 34, 50, 101, 152)}
_NORMS = {"FrozenBN": "frozen_bn", "BN": "bn", "SyncBN": "sync_bn", "GN": "gn"}


def _build_network(cfg: Any, freeze_at: int, in_channels: int = 3) -> ResNet:
    """Build the network of MODEL.RESNETS.

    Raises:
        ValueError: unsupported depth, norm or deformable stages.
    """
    resnets = cfg.MODEL.RESNETS
    if any(resnets.DEFORM_ON_PER_STAGE) or resnets.NORM not in _NORMS or resnets.DEPTH not in _DEPTHS:
        raise ValueError(
            f"expected DEPTH of {', '.join(map(str, _DEPTHS))}, NORM of {', '.join(_NORMS)} and no deformable stages, got "
            f"DEPTH {resnets.DEPTH}, NORM {resnets.NORM!r}, DEFORM_ON_PER_STAGE {resnets.DEFORM_ON_PER_STAGE}"
        )
    block = BasicBlock if resnets.DEPTH in (18, 34) else Bottleneck
    widths = [resnets.RES2_OUT_CHANNELS // block.expansion * 2**i for i in range(4)]
    bottleneck_widths = [resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 2**i for i in range(4)]
    dilation: dict[str, Any] = {"output_stride": 16, "dilate_first": True} if resnets.RES5_DILATION == 2 else {}
    return ResNet(
        block,
        _DEPTHS[resnets.DEPTH],
        widths=widths,
        bottleneck_widths=widths if block is BasicBlock else bottleneck_widths,
        groups=resnets.NUM_GROUPS,
        stem_width=resnets.STEM_OUT_CHANNELS,
        norm=_NORMS[resnets.NORM],  # type: ignore[arg-type]
        stride_in="1x1" if resnets.STRIDE_IN_1X1 else "3x3",
        freeze_at=freeze_at,
        in_channels=in_channels,
        **dilation,
    )


def _use_detectron2_keys(module: nn.Module, torchvision_prefix: str, detectron2_prefix: str) -> None:
    """Save and load a module's state dict with detectron2's key names.

    Args:
        module: the module, changed in place.
        torchvision_prefix: in front of torchvision's names in the module.
        detectron2_prefix: in front of detectron2's full names, and not in the saved names.
    """

    def rename_keys(state: dict[str, Any], prefix: str, rename: Callable[[str], str | None]) -> None:
        for key in [k for k in state if k.startswith(prefix)]:
            name = rename(key.removeprefix(prefix))
            if name is not None:
                state[prefix + name] = state.pop(key)

    def to_saved(name: str) -> str | None:
        renamed = to_detectron2(name.removeprefix(torchvision_prefix)) if name.startswith(torchvision_prefix) else None
        return None if renamed is None else renamed.removeprefix(detectron2_prefix)

    def from_saved(name: str) -> str | None:
        renamed = to_torchvision(detectron2_prefix + name, "detectron2")
        return None if renamed is None else torchvision_prefix + renamed

    def save(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        rename_keys(state, prefix, to_saved)

    def load(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        rename_keys(state, prefix, from_saved)

    module.register_state_dict_post_hook(save)
    module.register_load_state_dict_pre_hook(load)


class ResDetBackbone(Backbone):  # type: ignore[misc]
    """A ResNet with detectron2's Backbone interface.

    Args:
        net: the network.
        out_features: returned feature maps, of "res2", …, "res5".

    Raises:
        ValueError: no or unknown out_features.
    """

    def __init__(self, net: ResNet, out_features: list[str]) -> None:
        super().__init__()
        self._out_features = list(out_features)
        names = [f"res{i}" for i in range(2, 6)]
        if not out_features or not set(out_features) <= set(names):
            raise ValueError(f"OUT_FEATURES must be of {', '.join(names)}, got {out_features}")
        last = max(int(name.removeprefix("res")) for name in out_features)
        self.trunk = Trunk(net, f"c{last}")
        specs = {name: net.specs[f"c{name.removeprefix('res')}"] for name in out_features}
        self._out_feature_channels = {name: spec.channels for name, spec in specs.items()}
        self._out_feature_strides = {name: spec.stride for name, spec in specs.items()}
        _use_detectron2_keys(self, "trunk.", "")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the feature maps of out_features for normalised images [N, 3, H, W]."""
        maps = {f"res{i}": m for i, m in enumerate(self.trunk.maps(x), 1)}
        return {name: maps[name] for name in self._out_features}


class _Res5(nn.Module):
    """conv5_x with the key names of detectron2's C4 head."""

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.conv5 = Conv5(net)
        _use_detectron2_keys(self, "conv5.", "res5.")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv5(x)


@BACKBONE_REGISTRY.register()
def build_resdet_backbone(cfg: Any, input_shape: ShapeSpec) -> ResDetBackbone:
    """Build the backbone of C4 and DC5, as detectron2's ``build_resnet_backbone``."""
    net = _build_network(cfg, cfg.MODEL.BACKBONE.FREEZE_AT, input_shape.channels)
    return ResDetBackbone(net, cfg.MODEL.RESNETS.OUT_FEATURES)


@BACKBONE_REGISTRY.register()
def build_resdet_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """Build the backbone of FPN, as detectron2's ``build_resnet_fpn_backbone``, with detectron2's FPN module."""
    return FPN(
        bottom_up=build_resdet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@ROI_HEADS_REGISTRY.register()
class ResDetRes5ROIHeads(Res5ROIHeads):  # type: ignore[misc]
    """detectron2's C4 head with this package's conv5_x."""

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Module, int]:
        net = _build_network(cfg, 0)
        return _Res5(net), net.specs["c5"].channels
