"""The feature maps of a backbone: their channels and strides, of our networks and of any other module. Nobody else writes
1024 or 16."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class FeatureSpec:
    """Shape of one feature map of a network.

    Attributes:
        channels: channels of the map.
        stride: input pixels per step of the map; an input of H rows gives ceil(H / stride) rows (a row less or more
            at sizes that the stride does not divide, where the stem pools by Caffe's rule).
    """

    channels: int
    stride: int


def feature_specs(module: nn.Module) -> dict[str, FeatureSpec]:
    """Return the maps of a backbone by name, finest first.

    Args:
        module: with ``specs``, a mapping of names to FeatureSpec in the order of its outputs; or with ``out_channels`` and
            ``stride`` of its only map, which is then called "map".

    Raises:
        TypeError: the module has neither.
    """
    specs = getattr(module, "specs", None)
    if isinstance(specs, Mapping) and specs and all(isinstance(spec, FeatureSpec) for spec in specs.values()):
        return dict(specs)
    channels, stride = getattr(module, "out_channels", None), getattr(module, "stride", None)
    if isinstance(channels, int) and isinstance(stride, int):
        return {"map": FeatureSpec(channels, stride)}
    raise TypeError(
        f"{type(module).__name__} does not say what its feature maps are: wanted .specs, such as "
        '{"c4": FeatureSpec(channels=1024, stride=16)}, or .out_channels and .stride as integers'
    )


class FeatureTrunk(nn.Module):
    """Some of the maps of any backbone: image [N, 3, H, W] -> the maps named, as the module computes them.

    Args:
        body: its forward returns the map, a mapping of names to maps, or a sequence of maps in the order of its specs.
        names: of the maps wanted; finest first.
    """

    def __init__(self, body: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.body, self.names = body, tuple(names)
        specs = feature_specs(body)
        self.position = [list(specs).index(name) for name in names]
        self.specs = [specs[name] for name in names]

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the maps.

        Raises:
            ValueError: the module gives another number of maps than it says, or a map with other channels.
        """
        outputs = self.body(x)
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        if isinstance(outputs, Mapping):
            missing = [name for name in self.names if name not in outputs and len(outputs) > 1]
            if missing:
                raise ValueError(f"{type(self.body).__name__} gives the maps {list(outputs)}, and not {missing}")
            maps = [outputs[name] if name in outputs else next(iter(outputs.values())) for name in self.names]
        else:
            if len(outputs) <= max(self.position):
                raise ValueError(f"{type(self.body).__name__} gives {len(outputs)} maps, its specs name more")
            maps = [outputs[i] for i in self.position]
        for name, spec, feature in zip(self.names, self.specs, maps, strict=True):
            if feature.dim() != 4 or feature.shape[1] != spec.channels:
                raise ValueError(
                    f"{type(self.body).__name__}: map {name} is {list(feature.shape)}, wanted [N, {spec.channels}, H, W]"
                )
        return maps

    @property
    def spec(self) -> FeatureSpec:
        """Of the last map."""
        return self.specs[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(x)[-1]
