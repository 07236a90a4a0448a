"""From a configuration to a model: the only file that knows both."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from backbone import RECIPES
from backbone.adapters.foreign import is_foreign, timm_backbone
from backbone.resnet import FACTORIES
from detection.config import ModelConfig, TestConfig
from detection.modeling.anchors import AnchorGenerator, make_anchors
from detection.modeling.architectures import take_apart
from detection.modeling.at_test_time import AtTestTime
from detection.modeling.faster_rcnn import FasterRCNN


def build_model(config: ModelConfig, num_classes: int) -> FasterRCNN:
    """Assemble the detector, with random weights; ``detection.checkpoint`` loads ``config.weights``.

    Args:
        config: the ``model`` part of a configuration.
        num_classes: K, without the background.

    Raises:
        ValueError: parts that do not go together, or fewer than one class.
        ImportError: a timm:// backbone without timm.
    """
    return assemble(build_backbone(config), config, num_classes)


def assemble(backbone: nn.Module, config: ModelConfig, num_classes: int) -> FasterRCNN:
    """Assemble the detector on a network of your own; of what ``config`` says of the network the recipe alone counts.

    Args:
        backbone: shares its parameters with the detector.
        config: the ``model`` part of a configuration.
        num_classes: K, without the background.

    Raises:
        ValueError: parts that do not go together, or fewer than one class.
    """
    roi = dataclasses.asdict(config.roi)
    del roi["class_start"]  # training's
    if isinstance(weights := config.roi.class_weights, str | dict):
        raise ValueError(
            f"model.roi.class_weights={weights!r} needs the data's classes, which nothing gave here: resolve() of "
            "detection.training.auto makes a list of it, or give the list, the background's factor first"
        )
    return FasterRCNN(
        backbone,
        num_classes,
        architecture=config.architecture,
        recipe=getattr(backbone, "recipe", None) or config.recipe,
        fpn_channels=config.fpn_channels,
        anchors=_anchor_options(config),
        rpn=dataclasses.asdict(config.rpn),
        roi=roi,
        padded=config.padded,
    )


def at_test_time(members: Sequence[FasterRCNN], config: TestConfig) -> FasterRCNN | AtTestTime:
    """Return what is tested: the detector itself where nothing is added to it.

    Args:
        members: one detector, or those of an ensemble.
        config: the ``test`` part of a configuration.

    Raises:
        ValueError: detectors of different classes.
    """
    if len(members) == 1 and config == TestConfig():
        return members[0]
    options = dataclasses.asdict(config)
    del options["scales"]  # of the images, which a loader makes
    return AtTestTime(members, **options)


def build_backbone(config: ModelConfig, pretrained: str | None = None) -> nn.Module:
    """Return the network of a configuration.

    Args:
        config: the ``model`` part of a configuration.
        pretrained: of a timm:// backbone: the timm name, or file, whose weights it gets; None leaves them random.
    """
    if is_foreign(config.backbone):
        return timm_backbone(
            config.backbone,
            architecture=config.architecture,
            norm=config.norm,
            freeze_at=config.freeze_at,
            pretrained=pretrained,
            in_channels=config.in_channels,
        )
    recipe = RECIPES[config.recipe]
    dilated: dict[str, Any] = {"output_stride": 16, "dilate_first": True} if config.architecture == "dc5" else {}
    return FACTORIES[config.backbone](
        norm=config.norm,
        conv5_norm=config.conv5_norm,
        stride_in=config.stride_in or recipe.stride_in,
        stem_pool=config.stem_pool or recipe.stem_pool,
        freeze_at=config.freeze_at,
        in_channels=config.in_channels,
        **dilated,
    )


def anchor_generators(config: ModelConfig) -> list[AnchorGenerator]:
    """Return the generators of a configuration's detector, one for each map, without building the detector.

    Raises:
        ValueError: parts that do not go together.
    """
    with torch.device("meta"):  # its strides are wanted: no memory, and no random numbers
        maps = take_apart(build_backbone(config), config.architecture, config.fpn_channels).maps
    return make_anchors([spec.stride for spec in maps], **_anchor_options(config))


def _anchor_options(config: ModelConfig) -> dict[str, Any]:
    options = dataclasses.asdict(config.anchors)
    if not config.anchors.sizes:  # auto: the usual sizes, as long as no run has chosen others for its boxes
        del options["sizes"]
    return options
