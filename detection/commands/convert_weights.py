"""``resdet convert-weights``: write weights in torchvision's, detectron2's or the own layout."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from backbone.recipe import RECIPES
from backbone.weights import read_weights
from detection.checkpoint.convert import LAYOUTS, check_written, convert, write
from detection.checkpoint.detector import (
    local_file,
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="convert_weights.py",
        description="Write weights in another layout. Recognises what INPUT is by its tensors' names; OUTPUT's ending "
        "(.pth, .safetensors; for detectron2 also .pkl) says the kind of file. Values do not change by a bit.",
        allow_abbrev=False,
    )
    parser.add_argument("input", metavar="INPUT", help="a file, or a name such as torchvision://resnet50")
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
    weights = read_weights(local_file(args.input))
    content = convert(weights, args.to, args.recipe, args.config, args.classes, backbone=args.backbone)
    write(args.output, content)
    check_written(args.output, content["tensors"])
    print(f"{args.output}: {len(content['tensors'])} tensors in the layout of {args.to}, recipe {content['recipe']}")
    return 0
