"""``resdet convert-weights``: write weights in torchvision's, detectron2's or ResDet's layout."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from backbone.recipe import RECIPES
from backbone.weights import read_weights
from detection.checkpoint.convert import LAYOUTS, check_written, convert, write
from detection.checkpoint.detector import local_file
from detection.utils.atomic_io import require_new


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="convert_weights.py",
        description="Convert weights to another layout. INPUT's layout is detected from its key names; OUTPUT's suffix "
        "(.pth, .safetensors; for detectron2 also .pkl) sets the file format. Values stay bit-identical.",
        allow_abbrev=False,
    )
    parser.add_argument("input", metavar="INPUT", help="a file, or a name such as torchvision://resnet50")
    parser.add_argument("output", type=Path, metavar="OUTPUT")
    parser.add_argument("--to", choices=LAYOUTS, default="resdet", help="default: resdet")
    parser.add_argument(
        "--recipe", choices=list(RECIPES), help="recipe of backbone weights whose file does not name it"
    )
    parser.add_argument("--backbone", action="store_true", help="write only the backbone of a detector")
    parser.add_argument(
        "--config", help="configuration of a detectron2 detector: a YAML file or the bare name of a shipped one"
    )
    parser.add_argument(
        "--classes",
        help="coco, voc, or comma-separated names, for a detectron2 detector (default: coco for 80, voc for 20)",
    )
    args = parser.parse_args(argv)
    require_new([args.output], "OUTPUT")
    weights = read_weights(local_file(args.input))
    content = convert(weights, args.to, args.recipe, args.config, args.classes, backbone=args.backbone)
    write(args.output, content)
    check_written(args.output, content["tensors"])
    print(f"{args.output}: {len(content['tensors'])} tensors in {args.to} layout, recipe {content['recipe']}")
    return 0
