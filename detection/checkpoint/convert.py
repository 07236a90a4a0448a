"""``resdet convert-weights``: networks and detectors between torchvision's, detectron2's and the own layout."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from backbone.layouts import to_detectron2 as network_to_detectron2
from backbone.recipe import RECIPES, Recipe
from backbone.weights import Weights, read_weights
from detection.checkpoint.detector import check_state, detector_state, recipe_implied
from detection.checkpoint.keys import is_detectron2, network_name, to_detectron2
from detection.checkpoint.label_maps import class_names
from detection.checkpoint.metadata import CLASSIFIER, KEY, Metadata, describe, read_metadata
from detection.config import load_config
from detection.utils.atomic_io import replacing

_LOG = logging.getLogger(__name__)
LAYOUTS = ("resdet", "torchvision", "detectron2")


def convert(
    weights: Weights, to: str, recipe: str | None, config: str | None, classes: str | None, *, backbone: bool
) -> dict[str, Any]:
    """Return what is to be written: {"tensors", "recipe", "to"}, and what the file says of itself.

    Raises:
        ValueError: the layout has no place for a tensor, or it is not known what the file holds.
    """
    metadata = read_metadata(weights)
    whole = metadata is not None or is_detectron2(weights.tensors)
    if (metadata is not None or not whole or backbone) and (config or classes):
        raise ValueError(
            "--config and --classes are for a detector of detectron2's, whose file does not say them; "
            f"{weights.source} is no such or says them itself"
        )
    implied = recipe_implied(weights)
    if recipe and implied and recipe != implied:
        raise ValueError(f"{weights.source} holds weights of recipe {implied!r}, not of {recipe!r}")
    if whole and not backbone:
        metadata = _metadata(weights, config, classes)
        if to == "torchvision":
            raise ValueError(
                "torchvision's layout holds residual networks and this is a detector: rpn.conv.weight and others have no "
                "place in it; --backbone writes the network alone"
            )
        state = detector_state(weights)
        check_state(metadata, state, weights.source)
        found = {"tensors": state, "recipe": metadata.tree["model"]["recipe"], KEY: metadata.to_dict(), "to": to}
    else:
        found = {"tensors": _network(weights, whole), "recipe": recipe or implied, "to": to}
        if not whole and isinstance(weights.content, dict) and CLASSIFIER in weights.content:
            found[CLASSIFIER] = weights.content[CLASSIFIER]
        if found["recipe"] is None:
            raise ValueError(
                f"{weights.source} does not say what images and network its weights expect: give --recipe "
                f"({', '.join(RECIPES)}; torchvision's and timm's own files are of torchvision)"
            )
    if to == "detectron2":
        _check_detectron2_can(RECIPES[found["recipe"]])
        rename = to_detectron2 if whole and not backbone else _network_to_detectron2
        found["tensors"] = rename(found["tensors"])
    return found


def _network(weights: Weights, whole: bool) -> dict[str, Tensor]:
    """Return the tensors of the residual network alone, under torchvision's names."""
    everything = detector_state(weights) if whole else weights.tensors
    names = {key: network_name(key) for key in everything}
    unmapped = [key for key, name in names.items() if name is None]
    if unmapped and not whole:
        raise ValueError(
            f"{weights.source}: {len(unmapped)} tensors are no part of a residual network of a kind known here: "
            f"{', '.join(unmapped[:5])}"
        )
    found = {name: everything[key] for key, name in names.items() if name is not None}
    if not found:
        raise ValueError(f"{weights.source}: there is no residual network in it")
    return found


def _network_to_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {network_to_detectron2(name) or name: tensor for name, tensor in tensors.items()}


def _check_detectron2_can(recipe: Recipe) -> None:
    """Warn, or refuse: detectron2 reads neither recipe nor network from a file: its configuration must say them."""
    if recipe.stem_pool != "pad1":
        raise ValueError(
            f"weights of recipe {recipe.name!r} want a stem that pools by Caffe's rule (stem_pool='ceil'), which "
            "detectron2's networks do not have: their results would be others there"
        )
    if recipe.name != "detectron2":
        mean, std = ([round(255 / recipe.scale * v, 3) for v in values] for values in (recipe.mean, recipe.std))
        _LOG.warning(
            "detectron2 must be told what these weights want: INPUT.FORMAT %s MODEL.PIXEL_MEAN %s MODEL.PIXEL_STD %s "
            "MODEL.RESNETS.STRIDE_IN_1X1 %s",
            recipe.channels,
            mean,
            std,
            recipe.stride_in == "1x1",
        )


def _metadata(weights: Weights, config: str | None, classes: str | None) -> Metadata:
    """Return what the file says of itself, or else what the command line says of it."""
    metadata = read_metadata(weights)
    if metadata is not None:
        return metadata
    state = detector_state(weights)
    if "roi_head.classes.bias" not in state:
        raise ValueError(
            f"{weights.source} is a detector of detectron2's of a kind that there is not here; of its tensors there is no "
            "roi_heads.box_predictor.cls_score.bias"
        )
    if config is None:
        raise ValueError(
            f"{weights.source} is a detector that does not say its configuration: give --config, such as "
            "faster_rcnn_r50_c4_1x.yaml"
        )
    read = load_config(config)
    if read.model.recipe != weights.recipe:
        raise ValueError(
            f"{weights.source} is of recipe {weights.recipe!r}, and {config} has model.recipe={read.model.recipe}"
        )
    return describe(read, class_names(classes, len(state["roi_head.classes.bias"]) - 1))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write one file, whole or not at all.

    Raises:
        ValueError: the ending is not known.
    """
    # views of one storage would be saved twice, or refused
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in content["tensors"].items()}
    about: dict[str, Any] = {"recipe": content["recipe"]}
    about |= {key: content[key] for key in (KEY, CLASSIFIER) if key in content}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        if path.suffix == ".safetensors":
            if len(about) > 1:
                raise ValueError("safetensors holds tensors and words alone; a file with classes is written as .pth")
            save_file(tensors, part, metadata=about)
        elif path.suffix == ".pkl" and content["to"] == "detectron2":
            if any(tensor.dtype == torch.bfloat16 for tensor in tensors.values()):
                raise ValueError("a pickle of arrays has no bfloat16: write .pth")
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            part.write_bytes(pickle.dumps({"model": arrays, "__author__": "resdet", **about}, protocol=4))
        elif path.suffix in (".pth", ".pt"):
            # torchvision's own files are bare, and its recipe is what a bare file is taken for
            bare = content["to"] == "torchvision" and content["recipe"] == "torchvision"
            torch.save(tensors if bare else {"model": tensors, **about}, part)
        else:
            raise ValueError(f"{path}: wanted .pth or .safetensors, or .pkl with --to detectron2")


def _bytes(tensor: Tensor) -> Tensor:
    """Return bytes, which can be compared although a value is NaN."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def check_written(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read the file again, and raise ValueError unless every tensor is there, bit by bit."""
    content = torch.load(path, weights_only=True) if path.suffix in (".pth", ".pt") else read_weights(path).content
    found = content.get("model", content)
    for name, tensor in tensors.items():
        if not torch.equal(_bytes(torch.as_tensor(found[name])), _bytes(tensor)):
            raise ValueError(f"{path}: {name} is not what was written; is the disk full?")
