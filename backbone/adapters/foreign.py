"""timm's networks as backbones here: ``timm://NAME``, with feature maps, frozen layers and their own image recipe. timm is
an extra, imported when a network of it is asked for."""

import logging
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from backbone.features import FeatureSpec
from backbone.norm import NormName
from backbone.recipe import Recipe
from backbone.weights import read_weights

_LOG = logging.getLogger(__name__)
SCHEME = "timm://"


def is_foreign(name: str) -> bool:
    """Return whether a backbone's name is one of timm's: ``timm://NAME``."""
    return name.startswith(SCHEME)


class TimmBackbone(nn.Module):
    """The feature maps of a timm network, c1 (stride 2), c2 (4), … of those it has: image [N, 3, H, W] -> {name: map}.

    Args:
        net: made by timm with ``features_only=True``.
        specs: of its maps, finest first.
        channels_last: the network gives maps as [N, H, W, C] (Swin, for one).
        recipe: how its weights expect their images.
    """

    def __init__(self, net: nn.Module, specs: dict[str, FeatureSpec], channels_last: bool, recipe: Recipe) -> None:
        super().__init__()
        self.net, self.specs, self.channels_last, self.recipe = net, specs, channels_last, recipe

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.net(x)
        if self.channels_last:
            maps = [feature.permute(0, 3, 1, 2) for feature in maps]
        return dict(zip(self.specs, maps, strict=True))


class TimmResNet(nn.Module):
    """A ResNet of timm's (its variants with other stems, poolings and attention too), which :meth:`split_c4` divides.

    Args:
        net: timm's network.
        recipe: how its weights expect their images.
    """

    def __init__(self, net: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.net, self.recipe = net, recipe
        # feature_info of timm's ResNets: the stem, then the four stages
        *_, c4, c5 = net.feature_info  # type: ignore[misc]
        self.specs = {f"c{4 + i}": FeatureSpec(c["num_chs"], c["reduction"]) for i, c in enumerate((c4, c5))}

    def split_c4(self) -> "tuple[TimmTrunk, TimmConv5]":
        """Return conv1 to conv4_x, and conv5_x; both share the network's parameters."""
        return TimmTrunk(self.net, self.specs["c4"]), TimmConv5(self.net, self.specs["c5"])


class TimmTrunk(nn.Module):
    """conv1 to conv4_x of a timm ResNet: image [N, 3, H, W] -> [N, C4, H/16, W/16]."""

    def __init__(self, net: Any, spec: FeatureSpec) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act1, self.maxpool = net.conv1, net.bn1, net.act1, net.maxpool
        self.layer1, self.layer2, self.layer3 = net.layer1, net.layer2, net.layer3
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))


class TimmConv5(nn.Module):
    """conv5_x of a timm ResNet: RoI features [R, C4, S, S] -> [R, C5, S/2, S/2]."""

    def __init__(self, net: Any, spec: FeatureSpec) -> None:
        super().__init__()
        self.layer4, self.spec = net.layer4, spec

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x)


def timm_backbone(
    name: str,
    *,
    architecture: Literal["c4", "dc5", "fpn"] = "fpn",
    norm: NormName = "frozen_bn",
    freeze_at: int = 2,
    pretrained: str | None = None,
    in_channels: int = 3,
) -> TimmBackbone | TimmResNet:
    """Return a timm network as a backbone.

    Args:
        name: timm://NAME, any that timm creates with feature maps; for c4 that is a ResNet with its conv5_x as the head, of
            any other network the map of stride 16, or the coarsest one finer than 32, is used.
        architecture: which maps are wanted: fpn strides 4 and up; dc5 the coarsest; c4 as above.
        norm: frozen_bn freezes the network's batch norms (timm's ``freeze_batch_norm_2d``; others stay as they are); bn
            leaves them.
        freeze_at: layers up to the map of stride 2**freeze_at are frozen; 0 freezes nothing.
        pretrained: another timm name of the same network, or a file of its weights, to fill it with.
        in_channels: of the images; timm sums or repeats its first convolution's weights.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such network, it has no feature maps, or ``norm`` is another.
    """
    timm = _timm()
    if norm not in ("frozen_bn", "bn"):
        raise ValueError(f"a timm:// backbone takes model.norm=frozen_bn or bn, got {norm}")
    model_name = name.removeprefix(SCHEME)
    options: dict[str, Any] = {} if in_channels == 3 else {"in_chans": in_channels}
    if pretrained is not None and not pretrained.startswith(SCHEME):
        with tempfile.TemporaryDirectory() as folder:
            # through our reader, which runs nothing; timm then fits the names
            file = Path(folder) / "weights.safetensors"
            save_file({k: v.contiguous() for k, v in read_weights(pretrained).tensors.items()}, file)
            options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}}
            net = _create(timm, model_name, architecture, options)
    else:
        if pretrained is not None:
            model_name = pretrained.removeprefix(SCHEME)
            options |= {"pretrained": True}
        net = _create(timm, model_name, architecture, options)
    recipe = _recipe(name, timm, model_name)
    backbone: TimmBackbone | TimmResNet
    if architecture == "c4" and isinstance(net, timm.models.resnet.ResNet):
        net.fc = nn.Identity()  # the classifier, which no detector has
        backbone = TimmResNet(net, recipe)
        _freeze_up_to(net, ["bn1", "layer1", "layer2", "layer3", "layer4"], [2, 4, 8, 16, 32], freeze_at)
    else:
        info = net.feature_info
        specs = {
            f"c{stride.bit_length() - 1}": FeatureSpec(channels, stride)
            for channels, stride in zip(info.channels(), info.reduction(), strict=True)
        }
        channels_last = getattr(net, "output_fmt", None) is not None and str(net.output_fmt).endswith("NHWC")
        backbone = TimmBackbone(net, specs, channels_last, recipe)
        _freeze_up_to(net, info.module_name(), info.reduction(), freeze_at)
    backbone.in_channels = in_channels  # type: ignore[assignment]  # a plain attribute
    if norm == "frozen_bn":
        backbone.net = timm.layers.freeze_batch_norm_2d(backbone.net)
    return backbone


def _timm() -> Any:
    try:
        import timm
        import timm.layers
        import timm.models.resnet
    except ImportError as error:
        raise ImportError("a timm:// backbone wants the package timm: pip install timm") from error
    return timm


def _create(timm: Any, name: str, architecture: str, options: dict[str, Any]) -> Any:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.partition('.')[0]}*")[:5]
        raise ValueError(f"timm has no network {name!r}{'; it has ' + ', '.join(near) if near else ''}")
    if architecture == "c4" and timm.model_entrypoint(name).__module__ == "timm.models.resnet":
        return timm.create_model(name, **options)
    try:
        with torch.device("meta"):  # what its maps are: no memory, and no random numbers
            strides = timm.create_model(name, features_only=True).feature_info.reduction()
        if architecture == "fpn":
            wanted = [i for i, stride in enumerate(strides) if stride >= 4]
        elif architecture == "c4":
            wanted = [max(i for i, stride in enumerate(strides) if stride <= max(16, min(strides)))]
        else:
            wanted = [len(strides) - 1]
        return timm.create_model(name, features_only=True, out_indices=tuple(wanted), **options)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
        raise ValueError(f"timm's {name} gives no feature maps: {error}") from error


def _recipe(name: str, timm: Any, model_name: str) -> Recipe:
    about = timm.get_pretrained_cfg(model_name)
    mean, std = (about.mean, about.std) if about is not None else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Recipe(name, "RGB", 1.0, tuple(mean), tuple(std), "3x3", "pad1")


def _freeze_up_to(net: nn.Module, modules: list[str], strides: list[int], freeze_at: int) -> None:
    """Freeze a network's parameters up to those of the last of ``modules`` whose stride is within 2**freeze_at."""
    within = [module for module, stride in zip(modules, strides, strict=True) if freeze_at and stride <= 2**freeze_at]
    if not within:
        return
    names, parameters = zip(*net.named_parameters(), strict=True)
    # feature networks of flat children are named stages_1, those of blocks in one child blocks.1
    prefixes = (f"{within[-1].replace('.', '_')}.", f"{within[-1]}.")
    ends = [i for i, name in enumerate(names) if name.startswith(prefixes)]
    if not ends:
        _LOG.warning(
            "model.freeze_at=%d freezes nothing: %s has no layer %s", freeze_at, type(net).__name__, within[-1]
        )
    for parameter in parameters[: max(ends, default=-1) + 1]:
        parameter.requires_grad_(False)
