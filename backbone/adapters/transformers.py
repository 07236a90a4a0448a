"""The networks as backbones of transformers' detectors, DETR and its relatives; wants transformers 5.

Importing this file makes ``AutoConfig`` and ``AutoBackbone`` know the model type "resdet".
"""

from typing import Any

from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from backbone.norm import FrozenBatchNorm2d
from backbone.resnet import network


class ResDetConfig(BackboneConfigMixin, PreTrainedConfig):  # type: ignore[misc]
    """A network of :mod:`backbone` by its name.

    Args:
        network: resnet18, resnet50, resnet101, …
        options: keywords of :class:`backbone.ResNet`, such as {"norm": "frozen_bn", "freeze_at": 2}.
        out_features, out_indices: which of "stem", "stage1" (conv2_x), … "stage4" come out; the last by default.

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
    """transformers' backbone interface: ``channels``, ``out_features``, and ``feature_maps`` of a batch."""

    config_class = ResDetConfig
    main_input_name = "pixel_values"
    has_attentions = False

    def __init__(self, config: ResDetConfig) -> None:
        super().__init__(config)
        self.net = network(config.network, **config.options)
        if len(self.net.specs) != len(config.stage_names):
            raise ValueError(f"wanted a network of four stages, and {config.network} has {len(self.net.specs) - 1}")
        self.net.fc = None  # type: ignore[assignment]  # no part of it; unused parameters would upset DistributedDataParallel
        self.num_features = [spec.channels for spec in self.net.specs.values()]
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """What a checkpoint lacks, as the network itself initialises it."""
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

    def forward(  # type: ignore[override]  # theirs differs from release to release
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Normalised images [N, 3, H, W] to the chosen maps."""
        maps = dict(zip(self.stage_names, self.net.features(pixel_values).values(), strict=True))
        chosen = tuple(maps[name] for name in self.out_features)
        hidden = tuple(maps.values()) if output_hidden_states else None
        if return_dict is False:
            return (chosen, hidden) if output_hidden_states else (chosen,)
        return BackboneOutput(feature_maps=chosen, hidden_states=hidden, attentions=None)


AutoConfig.register("resdet", ResDetConfig)
AutoBackbone.register(ResDetConfig, ResDetBackbone)
