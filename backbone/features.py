"""What a feature map is to those who use it: its channels and its stride. Nobody else writes 1024 or 16."""

from dataclasses import dataclass


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
