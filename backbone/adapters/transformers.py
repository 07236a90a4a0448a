"""Adapter to transformers' detectors, such as DETR; requires transformers 5.

Importing this module registers the model type "resdet" with ``AutoConfig`` and ``AutoBackbone``.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from backbone.norm import FrozenBatchNorm2d
from backbone.resnet import network


class ResDetConfig(BackboneConfigMixin, PreTrainedConfig):  # type: ignore[misc]
    """Configuration of a network of :mod:`backbone`.

    Args:
        network: name of the network: resnet18, resnet50, resnet101, …
        options: keyword arguments of :class:`backbone.ResNet`, such as {"norm": "frozen_bn", "freeze_at": 2}.
        out_features, out_indices: returned feature maps, of "stem", "stage1" (conv2_x), … "stage4"; the last by default.

    >>> import torch
    >>> from transformers import DetrConfig, DetrForObjectDetection
    >>> backbone = ResDetConfig(network="resnet50", options={"norm": "frozen_bn", "freeze_at": 2})
    >>> detector = DetrForObjectDetection(DetrConfig(use_timm_backbone=False, backbone_config=backbone))
    >>> detector(pixel_values=torch.rand(1, 3, 128, 128)).pred_boxes.shape
    torch.Size([1, 100, 4])
    """

    model_type = "resdet"

    def __init__(
        self,
        network: str = "resnet50",
        options: dict[str, Any] | None = None,
        out_features: list[str] | None = None,
        out_indices: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        self.network, self.options = network, dict(options or {})
        self.stage_names = ["stem", "stage1", "stage2", "stage3", "stage4"]
        super().__init__(**kwargs)
        self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)


class ResDetBackbone(BackboneMixin, PreTrainedModel):  # type: ignore[misc]
    """A network with transformers' backbone interface: ``channels``, ``out_features``, and ``feature_maps`` of a batch."""

    config_class = ResDetConfig
    main_input_name = "pixel_values"
    has_attentions = False

    def __init__(self, config: ResDetConfig) -> None:
        super().__init__(config)
        self.net = network(config.network, **config.options)
        if len(self.net.specs) != len(config.stage_names):
            raise ValueError(f"expected a network of four stages, but {config.network} has {len(self.net.specs) - 1}")
        self.net.fc = None  # type: ignore[assignment]  # DistributedDataParallel rejects unused parameters
        self.num_features = [spec.channels for spec in self.net.specs.values()]
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Initialise a module that is missing in a checkpoint, as the network does."""
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()
        elif isinstance(module, FrozenBatchNorm2d):
            for tensor, value in (
                (module.weight, 1),
                (module.bias, 0),
                (module.running_mean, 0),
                (module.running_var, 1),
            ):
                nn.init.constant_(tensor, value)

    def forward(  # type: ignore[override]  # the signature differs between transformers releases
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the feature maps of out_features for normalised images [N, 3, H, W]."""
        maps = dict(zip(self.stage_names, self.net.features(pixel_values).values(), strict=True))
        feature_maps = tuple(maps[name] for name in self.out_features)
        hidden_states = tuple(maps.values()) if output_hidden_states else None
        if return_dict is False:
            return (feature_maps, hidden_states) if output_hidden_states else (feature_maps,)
        return BackboneOutput(feature_maps=feature_maps, hidden_states=hidden_states, attentions=None)


AutoConfig.register("resdet", ResDetConfig)
AutoBackbone.register(ResDetConfig, ResDetBackbone)
