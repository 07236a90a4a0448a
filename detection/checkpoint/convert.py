"""Convert weights of networks and detectors between torchvision's, detectron2's and ResDet's layout."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from backbone.layouts import is_torchvision_detector
from backbone.layouts import to_detectron2 as network_to_detectron2
from backbone.recipe import RECIPES, Recipe
from backbone.weights import Weights, read_weights
from detection.checkpoint.detector import check_state, detector_state, recipe_implied
from detection.checkpoint.keys import is_detectron2, network_name, to_detectron2
from detection.checkpoint.label_maps import class_names
from detection.checkpoint.metadata import CLASSIFIER, KEY, Metadata, classifier_entry, describe, read_metadata
from detection.config import load_config
from detection.utils.atomic_io import replacing

_LOG = logging.getLogger(__name__)
TORCHVISION = "faster_rcnn_r50_fpn_torchvision.yaml"  # the configuration of fasterrcnn_resnet50_fpn
LAYOUTS = ("resdet", "torchvision", "detectron2")


def convert(
    weights: Weights, to: str, recipe: str | None, config: str | None, classes: str | None, *, backbone: bool
) -> dict[str, Any]:
    """Return the content to write: {"tensors", "recipe", "to"}, and the file's metadata.

    Raises:
        ValueError: the layout cannot represent a tensor, or recipe, configuration or classes are unknown.
    """
    metadata = read_metadata(weights)
    is_detector = metadata is not None or is_detectron2(weights.tensors) or is_torchvision_detector(weights.state)
    if (metadata is not None or not is_detector or backbone) and (config or classes):
        raise ValueError(
            "--config and --classes are for detectron2's and torchvision's detectors, whose files do not contain them; "
            f"{weights.source} is not one, or contains them"
        )
    implied = recipe_implied(weights)
    if recipe and implied and recipe != implied:
        raise ValueError(f"{weights.source} contains weights of recipe {implied!r}, not {recipe!r}")
    if is_detector and not backbone:
        metadata = _metadata(weights, config, classes)
        if to == "torchvision":
            raise ValueError(
                "torchvision's layout is for backbones, and this is a detector: rpn.conv.weight and others cannot be "
                "represented; --backbone writes only the backbone"
            )
        state_dict = detector_state(weights)
        check_state(metadata, state_dict, weights.source)
        content = {"tensors": state_dict, "recipe": metadata.tree["model"]["recipe"], KEY: metadata.to_dict(), "to": to}
    else:
        content = {"tensors": _backbone_tensors(weights, is_detector), "recipe": recipe or implied, "to": to}
        classifier = None if is_detector else classifier_entry(weights.content, weights.source)
        if classifier is not None:
            content[CLASSIFIER] = classifier
        if content["recipe"] is None:
            raise ValueError(
                f"{weights.source} does not name the recipe of its weights: set --recipe "
                f"({', '.join(RECIPES)}; torchvision for the files of torchvision and timm)"
            )
    if to == "detectron2":
        _check_detectron2_support(RECIPES[content["recipe"]])
        if (
            is_detector
            and not backbone
            and metadata is not None
            and metadata.tree["model"].get("roi", {}).get("context")
        ):
            raise ValueError(
                f"{weights.source} has global context (model.roi.context=true), which detectron2's Faster R-CNN does not "
                "have; --backbone writes the backbone alone"
            )
        rename = to_detectron2 if is_detector and not backbone else _network_to_detectron2
        content["tensors"] = rename(content["tensors"])
    return content


def _backbone_tensors(weights: Weights, is_detector: bool) -> dict[str, Tensor]:
    """Return the tensors of the ResNet alone, under torchvision's key names."""
    tensors = detector_state(weights) if is_detector else weights.tensors
    names = {key: network_name(key) for key in tensors}
    unmapped = [key for key, name in names.items() if name is None]
    if unmapped and not is_detector:
        raise ValueError(
            f"{weights.source}: {len(unmapped)} tensors are not part of a supported ResNet: {', '.join(unmapped[:5])}"
        )
    renamed = {name: tensors[key] for key, name in names.items() if name is not None}
    if not renamed:
        raise ValueError(f"{weights.source}: no ResNet found in it")
    return renamed


def _network_to_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {network_to_detectron2(name) or name: tensor for name, tensor in tensors.items()}


def _check_detectron2_support(recipe: Recipe) -> None:
    """Check that detectron2 can run weights of a recipe, and log the settings that its configuration must contain.

    Raises:
        ValueError: the recipe needs a stem that detectron2 does not have.
    """
    if recipe.stem_pool != "pad1":
        raise ValueError(
            f"weights of recipe {recipe.name!r} expect a stem with Caffe's ceil-mode pooling (stem_pool='ceil'), which "
            "detectron2 does not support: results would differ there"
        )
    if recipe.name != "detectron2":
        mean, std = ([round(255 / recipe.scale * v, 3) for v in values] for values in (recipe.mean, recipe.std))
        _LOG.warning(
            "detectron2's configuration needs these settings for the weights: INPUT.FORMAT %s MODEL.PIXEL_MEAN %s "
            "MODEL.PIXEL_STD %s MODEL.RESNETS.STRIDE_IN_1X1 %s",
            recipe.channels,
            mean,
            std,
            recipe.stride_in == "1x1",
        )


def _metadata(weights: Weights, config: str | None, classes: str | None) -> Metadata:
    """Return the file's metadata, or for another project's detector that of the command line."""
    metadata = read_metadata(weights)
    if metadata is not None:
        return metadata
    state_dict = detector_state(weights)
    theirs = is_torchvision_detector(weights.state)
    if "roi_head.classes.bias" not in state_dict or "rpn.conv.bias" not in state_dict:
        if theirs:
            raise ValueError(
                f"{weights.source} is a torchvision detector of another form (fasterrcnn_resnet50_fpn_v2 has two "
                "convolutions in the RPN and four in the head): its backbone and pyramid alone can be used, with "
                "--weights of training; --backbone writes the backbone"
            )
        raise ValueError(
            f"{weights.source} is a detectron2 detector of an unsupported kind: it has no tensor "
            "roi_heads.box_predictor.cls_score.bias"
        )
    if config is None and not theirs:
        raise ValueError(
            f"{weights.source} is a detector without its configuration: set --config, for example "
            "faster_rcnn_r50_c4_1x.yaml"
        )
    config = config or TORCHVISION
    loaded = load_config(config)
    if loaded.model.recipe != weights.recipe:
        raise ValueError(
            f"{weights.source} is of recipe {weights.recipe!r}, and {config} has model.recipe={loaded.model.recipe}"
        )
    return describe(loaded, class_names(classes, len(state_dict["roi_head.classes.bias"]) - 1))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write converted weights to one file, atomically.

    Raises:
        ValueError: unknown suffix, or the format cannot store the content.
    """
    # tensors that share storage would be saved twice, or rejected by safetensors
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in content["tensors"].items()}
    metadata: dict[str, Any] = {"recipe": content["recipe"]}
    metadata |= {key: content[key] for key in (KEY, CLASSIFIER) if key in content}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        if path.suffix == ".safetensors":
            if len(metadata) > 1:
                raise ValueError("safetensors cannot store class names and configuration: write .pth")
            save_file(tensors, part, metadata=metadata)
        elif path.suffix == ".pkl" and content["to"] == "detectron2":
            if any(tensor.dtype == torch.bfloat16 for tensor in tensors.values()):
                raise ValueError("NumPy arrays do not support bfloat16: write .pth")
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            part.write_bytes(pickle.dumps({"model": arrays, "__author__": "resdet", **metadata}, protocol=4))
        elif path.suffix in (".pth", ".pt"):
            # torchvision's files are plain state dicts, and its recipe is the default for those
            plain = content["to"] == "torchvision" and content["recipe"] == "torchvision"
            torch.save(tensors if plain else {"model": tensors, **metadata}, part)
        else:
            raise ValueError(f"{path}: expected .pth or .safetensors, or .pkl with --to detectron2")


def _bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes, which compare equal also for NaN."""
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def check_written(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Read a written file back, and compare all tensors.

    Raises:
        ValueError: a tensor is not bit-equal.
    """
    content = torch.load(path, weights_only=True) if path.suffix in (".pth", ".pt") else read_weights(path).content
    written = content.get("model", content)
    for name, tensor in tensors.items():
        if not torch.equal(_bytes(torch.as_tensor(written[name])), _bytes(tensor)):
            raise ValueError(f"{path}: {name} differs from what was written; is the disk full?")
