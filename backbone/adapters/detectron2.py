"""The networks in detectron2's registries: importing this file adds ``build_resdet_backbone``, ``build_resdet_fpn_backbone``
and ``ResDetRes5ROIHeads``, for MODEL.BACKBONE.NAME and MODEL.ROI_HEADS.NAME of its configurations.

Their tensors go by detectron2's names, so that its checkpoints load and its checkpointer's files are read elsewhere.

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
from backbone.resnet import Conv5, ResNet, Trunk

_DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_NORMS = {"FrozenBN": "frozen_bn", "BN": "bn", "SyncBN": "sync_bn", "GN": "gn"}


def _network(cfg: Any, freeze_at: int, in_channels: int = 3) -> ResNet:
    """The network that MODEL.RESNETS describes.

    Raises:
        ValueError: it asks for what the networks here do not have.
    """
    asked = cfg.MODEL.RESNETS
    if any(asked.DEFORM_ON_PER_STAGE) or asked.NORM not in _NORMS or asked.DEPTH not in _DEPTHS:
        raise ValueError(
            f"wanted DEPTH of {', '.join(map(str, _DEPTHS))}, NORM of {', '.join(_NORMS)} and no deformable stages, got "
            f"DEPTH {asked.DEPTH}, NORM {asked.NORM!r}, DEFORM_ON_PER_STAGE {asked.DEFORM_ON_PER_STAGE}"
        )
    block = BasicBlock if asked.DEPTH in (18, 34) else Bottleneck
    widths = [asked.RES2_OUT_CHANNELS // block.expansion * 2**i for i in range(4)]
    mids = widths if block is BasicBlock else [asked.NUM_GROUPS * asked.WIDTH_PER_GROUP * 2**i for i in range(4)]
    dilated: dict[str, Any] = {"output_stride": 16, "dilate_first": True} if asked.RES5_DILATION == 2 else {}
    return ResNet(
        block,
        _DEPTHS[asked.DEPTH],
        widths=widths,
        bottleneck_widths=mids,
        groups=asked.NUM_GROUPS,
        stem_width=asked.STEM_OUT_CHANNELS,
        norm=_NORMS[asked.NORM],  # type: ignore[arg-type]
        stride_in="1x1" if asked.STRIDE_IN_1X1 else "3x3",
        freeze_at=freeze_at,
        in_channels=in_channels,
        **dilated,
    )


def _go_by_their_names(module: nn.Module, ours: str, theirs: str) -> None:
    """Tensors of a module under ``ours`` + torchvision's name are saved and loaded as detectron2's without ``theirs``."""

    def renamed(state: dict[str, Any], prefix: str, rename: Callable[[str], str | None]) -> None:
        for key in [k for k in state if k.startswith(prefix)]:
            name = rename(key.removeprefix(prefix))
            if name is not None:
                state[prefix + name] = state.pop(key)

    def outward(name: str) -> str | None:
        found = to_detectron2(name.removeprefix(ours)) if name.startswith(ours) else None
        return None if found is None else found.removeprefix(theirs)

    def inward(name: str) -> str | None:
        found = to_torchvision(theirs + name, "detectron2")
        return None if found is None else ours + found

    def save(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        renamed(state, prefix, outward)

    def load(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        renamed(state, prefix, inward)

    module.register_state_dict_post_hook(save)
    module.register_load_state_dict_pre_hook(load)


class ResDetBackbone(Backbone):  # type: ignore[misc]
    """A ResNet with detectron2's face.

    Args:
        net: the network.
        out_features: of "res2", …, "res5".
    """

    def __init__(self, net: ResNet, out_features: list[str]) -> None:
        super().__init__()
        self._out_features = list(out_features)
        known = [f"res{i}" for i in range(2, 6)]
        if not out_features or not set(out_features) <= set(known):
            raise ValueError(f"OUT_FEATURES must be of {', '.join(known)}, got {out_features}")
        last = max(int(name.removeprefix("res")) for name in out_features)
        self.trunk = Trunk(net, f"c{last}")
        specs = {name: net.specs[f"c{name.removeprefix('res')}"] for name in out_features}
        self._out_feature_channels = {name: spec.channels for name, spec in specs.items()}
        self._out_feature_strides = {name: spec.stride for name, spec in specs.items()}
        _go_by_their_names(self, "trunk.", "")

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images [N, 3, H, W] to the chosen maps."""
        maps = {f"res{i}": m for i, m in enumerate(self.trunk.maps(x), 1)}
        return {name: maps[name] for name in self._out_features}


class _Res5(nn.Module):
    """conv5_x under the names that it has in detectron2's C4 head."""

    def __init__(self, net: ResNet) -> None:
        super().__init__()
        self.conv5 = Conv5(net)
        _go_by_their_names(self, "conv5.", "res5.")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv5(x)


@BACKBONE_REGISTRY.register()
def build_resdet_backbone(cfg: Any, input_shape: ShapeSpec) -> ResDetBackbone:
    """For C4 and DC5: what detectron2's ``build_resnet_backbone`` builds."""
    net = _network(cfg, cfg.MODEL.BACKBONE.FREEZE_AT, input_shape.channels)
    return ResDetBackbone(net, cfg.MODEL.RESNETS.OUT_FEATURES)


@BACKBONE_REGISTRY.register()
def build_resdet_fpn_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """For FPN: what detectron2's ``build_resnet_fpn_backbone`` builds, with its own pyramid."""
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
    """detectron2's C4 head with conv5_x from here."""

    @classmethod
    def _build_res5_block(cls, cfg: Any) -> tuple[nn.Module, int]:
        net = _network(cfg, 0)
        return _Res5(net), net.specs["c5"].channels
