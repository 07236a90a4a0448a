"""``resdet convert-weights``: networks and detectors between torchvision's, detectron2's and the own layout."""

import argparse
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from backbone.layouts import to_detectron2 as network_to_detectron2
from backbone.recipe import RECIPES
from backbone.weights import Weights, read_weights
from detection.config_io import load_config
from detection.engine.checkpoint import CARD, card, check_state, detector_state, read_card, recipe_implied
from detection.engine.class_names import class_names
from detection.engine.layouts import is_detectron2, network_name, to_detectron2

_LOG = logging.getLogger(__name__)
LAYOUTS = ("resdet", "torchvision", "detectron2")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="convert_weights.py",
        description="Write weights in another layout. Recognises what INPUT is by its tensors' names; OUTPUT's ending "
        "(.pth, .safetensors; for detectron2 also .pkl) says the kind of file. Values do not change by a bit.",
        allow_abbrev=False,
    )
    parser.add_argument("input", type=Path, metavar="INPUT")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument("--to", choices=LAYOUTS, default="resdet", help="default: resdet, the own layout")
    parser.add_argument("--recipe", choices=list(RECIPES), help="of a network's weights whose file does not tell it")
    parser.add_argument("--backbone", action="store_true", help="of a detector write the residual network alone")
    parser.add_argument(
        "--config", help="what detector it is, for one of detectron2's: a YAML file or the bare name of one"
    )
    parser.add_argument(
        "--classes",
        help="coco, voc, or names with commas, for a detector of detectron2's (default: coco for 80, voc for 20)",
    )
    args = parser.parse_args(argv)
    if args.output.exists():
        raise ValueError(f"{args.output} exists; remove it or name another file")
    weights = read_weights(args.input)
    content = convert(weights, args.to, args.recipe, args.config, args.classes, backbone=args.backbone)
    write(args.output, content)
    _check_written(args.output, content["tensors"])
    print(f"{args.output}: {len(content['tensors'])} tensors in the layout of {args.to}, recipe {content['recipe']}")
    return 0


def convert(
    weights: Weights, to: str, recipe: str | None, config: str | None, classes: str | None, *, backbone: bool
) -> dict[str, Any]:
    """What is to be written: {"tensors", "recipe", and for a detector "card"}.

    Raises:
        ValueError: the layout has no place for a tensor, or it is not known what the file holds.
    """
    whole = read_card(weights) is not None or is_detectron2(weights.tensors)
    if whole and not backbone:
        about = _card(weights, config, classes)
        own = about["config"]["model"]["recipe"]
        if to == "torchvision":
            raise ValueError(
                "torchvision's layout holds residual networks and this is a detector: rpn.conv.weight and others have no "
                "place in it; --backbone writes the network alone"
            )
        state = detector_state(weights)
        check_state(about, state, weights.source)
        return {
            "tensors": to_detectron2(state) if to == "detectron2" else state,
            "recipe": own,
            "card": about,
            "to": to,
        }
    network = {name: tensor for key, tensor in weights.tensors.items() if (name := network_name(key)) is not None}
    homeless = [key for key in weights.tensors if network_name(key) is None]
    if homeless and not whole:
        raise ValueError(
            f"{weights.source}: {len(homeless)} tensors are no part of a residual network of a kind known here: "
            f"{', '.join(homeless[:5])}"
        )
    implied = recipe_implied(weights)
    if recipe and implied and recipe != implied:
        raise ValueError(f"{weights.source} holds weights of recipe {implied!r}, not of {recipe!r}")
    own = recipe or implied
    if own is None:
        raise ValueError(
            f"{weights.source} does not say what pictures and network its weights want: give --recipe "
            f"({', '.join(RECIPES)}; torchvision's and timm's own files are of torchvision)"
        )
    if to == "detectron2":
        network = {network_to_detectron2(name) or name: tensor for name, tensor in network.items()}
    return {"tensors": network, "recipe": own, "to": to}


def _card(weights: Weights, config: str | None, classes: str | None) -> dict[str, Any]:
    """What the file says of itself, or else what the command line says of it."""
    about = read_card(weights)
    if about is not None:
        return about
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
    count = len(detector_state(weights)["roi_head.classes.bias"]) - 1
    return card(read, class_names(classes, count))


def write(path: Path, content: Mapping[str, Any]) -> None:
    """One file, whole or not at all.

    Raises:
        ValueError: the ending is not known.
    """
    # views of one storage would be saved twice, or refused
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in content["tensors"].items()}
    about: dict[str, Any] = {"recipe": content["recipe"]}
    if "card" in content:
        about[CARD] = content["card"]
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix == ".safetensors":
            if CARD in about:
                raise ValueError("safetensors holds tensors and words: write a detector as .pth")
            save_file(tensors, part, metadata=about)
        elif path.suffix == ".pkl" and content["to"] == "detectron2":
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            part.write_bytes(pickle.dumps({"model": arrays, "__author__": "resdet", **about}))
        elif path.suffix in (".pth", ".pt"):
            # torchvision's own files are bare, and its recipe is what a bare file is taken for
            bare = content["to"] == "torchvision" and content["recipe"] == "torchvision"
            torch.save(tensors if bare else {"model": tensors, **about}, part)
        else:
            raise ValueError(f"{path}: wanted .pth or .safetensors, or .pkl with --to detectron2")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _check_written(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Reads the file again: every tensor is there, bit by bit."""
    content = torch.load(path, weights_only=True) if path.suffix in (".pth", ".pt") else read_weights(path).content
    found = content.get("model", content)
    for name, tensor in tensors.items():
        if not torch.equal(torch.as_tensor(found[name]), tensor):
            raise ValueError(f"{path}: {name} is not what was written; is the disk full?")
