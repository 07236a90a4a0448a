"""timm's ``features_only=True`` interface for the networks; timm itself is not needed."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from backbone.resnet import ResNet, Trunk


class FeatureInfo:
    """Metadata of the feature maps: ``num_chs`` (channels), ``reduction`` (stride) and ``module`` (its source).

    Args:
        info: one dictionary per feature map.
        out_indices: indices of the returned feature maps.
    """

    def __init__(self, info: Sequence[dict[str, Any]], out_indices: Sequence[int]) -> None:
        self.info, self.out_indices = list(info), tuple(out_indices)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return a value of one feature map, of several, or of all returned ones."""
        if isinstance(idx, int):
            return self.info[idx][key]
        return [self.info[i][key] for i in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the channels of the feature maps."""
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return the strides of the feature maps."""
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        """Return timm's names of the modules that output the feature maps."""
        return self.get("module", idx)

    def get_dicts(self, keys: Sequence[str] | None = None, idx: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the dictionaries of the feature maps, or the given keys of them."""
        selected = [self.info[i] for i in (self.out_indices if idx is None else idx)]
        return [{k: d[k] for k in keys or d} for d in selected]

    def __len__(self) -> int:
        return len(self.info)


class FeaturesOnly(nn.Module):
    """A network that returns a list of feature maps, with ``feature_info``, as ``timm.create_model(…, features_only=True)``.

    Args:
        net: the network; index 0 is its stem before pooling (stride 2), 1 is conv2_x (stride 4), and so on.
        out_indices: indices of the returned feature maps; None for all.

    Raises:
        ValueError: an index out of range.

    >>> from backbone import resnet50
    >>> net = FeaturesOnly(resnet50(), out_indices=(2, 3, 4))
    >>> net.feature_info.channels(), net.feature_info.reduction()
    ([512, 1024, 2048], [8, 16, 32])
    """

    def __init__(self, net: ResNet, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        info = [
            {"num_chs": spec.channels, "reduction": spec.stride, "module": f"layer{i}" if i else "act1", "index": i}
            for i, spec in enumerate(net.specs.values())
        ]
        indices = tuple(range(len(info)) if out_indices is None else out_indices)
        if not indices or not set(indices) <= set(range(len(info))):
            raise ValueError(f"out_indices must be among 0..{len(info) - 1}, got {indices}")
        self.feature_info = FeatureInfo(info, indices)
        # stops at the last one: DistributedDataParallel rejects unused parameters
        self.trunk = Trunk(net, f"c{max(*indices, 1) + 1}")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps of ``out_indices`` for normalised images [N, 3, H, W]."""
        maps = self.trunk.maps(x)
        return [maps[i] for i in self.feature_info.out_indices]
