"""A network with weights in one call: ``resnet50(weights="torchvision://resnet50")``."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from backbone.hub import fetch, is_name, recipe_of
from backbone.recipe import RECIPES
from backbone.weights import load_weights, read_weights, require_same_network

_LOG = logging.getLogger(__name__)
Net = TypeVar("Net", bound=nn.Module)
UNSET: Any = object()  # an argument that was not given, where None means something


def build_pretrained(
    construct: Callable[..., Net], weights: str | Path, num_classes: Any, options: dict[str, Any]
) -> Net:
    """Build a network as its weights expect it, and load them.

    Args:
        construct: builds the network from its keywords.
        weights: a file, or a name that :mod:`backbone.hub` downloads.
        num_classes: of the classifier, which is left as initialised where the weights have another number (a warning says
            so); None has none; ``UNSET`` takes that of the weights, or none where they have no classifier.
        options: keywords of the network, which override what the recipe of the weights says of stride and pooling.

    Returns:
        The network, with its weights' :class:`backbone.recipe.Recipe` as attribute ``recipe``.

    Raises:
        FileNotFoundError, ConnectionError: the weights cannot be had.
        ValueError: they are of another network.
    """
    name = str(weights)
    content = read_weights(fetch(name) if is_name(name) else weights)
    recipe = RECIPES[content.recipe or recipe_of(name) or "torchvision"]
    classifier = content.tensors.get("fc.weight")
    if num_classes is UNSET:
        num_classes = None if classifier is None else len(classifier)
    as_trained: dict[str, Any] = {"stride_in": recipe.stride_in}
    with torch.device("meta"):
        probe = construct(num_classes=None, **options)  # networks for CIFAR-10 have no pooling, whatever the recipe
    if "stem_pool" not in options and probe.stem_pool != "none":
        as_trained["stem_pool"] = recipe.stem_pool
    net = construct(num_classes=num_classes, **as_trained | options)
    report = load_weights(net, content, recipe.name)
    require_same_network(report)
    lost = [key for key in (*report.missing, *report.mismatched) if not key.startswith("fc.")]
    if lost:
        shapes = [f"{key} {theirs} in the file, {ours} here" for key, (ours, theirs) in report.mismatched.items()]
        raise ValueError(
            f"{weights}: weights of another network, {len(lost)} of its tensors are missing or of another shape "
            f"({'; '.join([*shapes, *lost][:3])}); build the network that they were trained with"
        )
    if num_classes is not None and not {"fc.weight", "fc.bias"} <= set(report.loaded):
        _LOG.warning(
            "%s: the classifier of %d classes is as initialised: the weights have %s",
            weights,
            num_classes,
            "none" if classifier is None else f"one of {len(classifier)}",
        )
    net.recipe = recipe  # type: ignore[assignment]  # a ResNet's
    return net
