"""``resdet classify``: classify images."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from backbone.recipe import RECIPES
from detection.classification.classify import class_names
from detection.classification.images import resize_center_crop
from detection.classification.networks import read_classifier
from detection.commands.parsers import add_image_inputs
from detection.data.image import MAX_PIXELS, find_images, read_image
from detection.utils.atomic_io import require_new, write_json

_LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 if a file could not be read, after processing all others."""
    parser = argparse.ArgumentParser(
        prog="classify.py", description="Classify images and folders of images.", allow_abbrev=False
    )
    parser.add_argument("--weights", type=Path, required=True, help="weights of a network, classifier included")
    parser.add_argument("--network", help="default: the one in the checkpoint's metadata, else resnet50")
    parser.add_argument(
        "--recipe",
        choices=list(RECIPES),
        help="input normalisation and architecture of the weights (default: the file's)",
    )
    parser.add_argument("--top", type=int, default=5, help="classes per image (default 5)")
    parser.add_argument(
        "--short-side",
        type=int,
        default=256,
        help="short side that the image is resized to before the crop (default 256)",
    )
    parser.add_argument("--crop", type=int, default=224, help="side of the centre crop (default 224)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the predictions to this file")
    add_image_inputs(parser)
    args = parser.parse_args(argv)
    if args.top < 1 or not 1 <= args.crop <= args.short_side:
        raise ValueError(
            f"expected --top of at least 1 and --crop from 1 to --short-side, got {args.top}, {args.crop}, {args.short_side}"
        )
    if args.json is not None:
        require_new([args.json], "--json FILE")
        args.json.parent.mkdir(parents=True, exist_ok=True)
    files = find_images(args.inputs)
    classifier = read_classifier(args.weights, args.network, args.recipe)
    net = classifier.net.to(args.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    count: int = net.fc.out_features  # type: ignore[assignment]  # a classifier has one
    names = classifier.classes or class_names(count)
    predictions, unreadable = {}, []
    for file in files:
        try:
            original = read_image(file, args.max_pixels or MAX_PIXELS)
        except (ValueError, OSError) as error:
            unreadable.append(str(error))
            _LOG.error("skipped: %s", error)
            continue
        image = resize_center_crop(original, args.short_side, args.crop).float().div_(255)
        with torch.no_grad():
            scores = net(classifier.recipe.normalise(image.to(args.device))[None])[0].softmax(0)
        best = scores.topk(min(args.top, count))
        predictions[str(file)] = [
            {"class": names[i], "score": round(s, 6)} for s, i in zip(*map(Tensor.tolist, best), strict=True)
        ]
        print(f"{file}  " + "  ".join(f"{p['class']} {p['score']:.3f}" for p in predictions[str(file)]))
    if args.json is not None:
        write_json(args.json, predictions)
    if unreadable:
        print(f"{len(unreadable)} of {len(files)} files could not be read:\n  " + "\n  ".join(unreadable))
    return 1 if unreadable else 0
