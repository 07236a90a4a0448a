"""``resdet predict``: detect objects on your images with a trained detector."""

import argparse
import glob
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from detection.commands.parsers import add_image_inputs
from detection.data.image import find_images, read_image
from detection.inference.predictor import Predictor, chunks, free_name, write_annotated
from detection.training.run_files.run_dir import move_earlier_run
from detection.utils.atomic_io import write_json
from detection.utils.errors import optional
from detection.utils.precision import Precision
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 if a file could not be read, after processing all others."""
    parser = argparse.ArgumentParser(
        prog="predict.py", description="Detect objects on images and folders of images.", allow_abbrev=False
    )
    parser.add_argument("--weights", type=Path, required=True, help="best.pth or last.pth of a run")
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        help="folder for the annotated images and detections.json; earlier ones are moved to a subfolder, and no file is "
        "replaced",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        help="minimum score of drawn boxes (detections.json has all; default 0.5)",
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images per batch (default 1)")
    parser.add_argument(
        "--cuda-graphs", action="store_true", help="replay a CUDA graph for image sizes that recur (on a GPU)"
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="auto",
        help="default: auto, bf16 where the hardware supports it, else fp16 on a GPU, else float32",
    )
    parser.add_argument(
        "--padded",
        action="store_true",
        help="run with proposals and detections padded to fixed shapes, as on a GPU (same detections)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the detector's configuration, such as model.roi.nms=soft_gaussian; may be repeated",
    )
    add_image_inputs(parser)
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}")
    results = args.output / "detections.json"
    files = find_images(args.inputs, _own_files(args.output, args.inputs, results))
    predictor = Predictor(
        args.weights,
        device=args.device,
        precision=args.precision,
        cuda_graphs=args.cuda_graphs,
        padded=args.padded or None,
        max_pixels=args.max_pixels,
        overrides=args.set,
    )
    move_earlier_run(args.output, [results.name, *map(glob.escape, _drawn(results))])
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    unreadable: list[str] = []
    taken: set[str] = set()
    drawn: list[str] = []
    with progress_bar() as bar:
        task = bar.add_task("detecting", total=len(files))
        for chunk in chunks(files, args.batch_size):
            readable = []
            for file in chunk:
                try:
                    readable.append((file, read_image(file, predictor.max_pixels, predictor.channels)))
                except (ValueError, OSError) as error:
                    unreadable.append(str(error))
                    _LOG.error("skipped: %s", error)
            outputs = predictor([image for _, image in readable], batch_size=args.batch_size)
            for (file, image), detections in zip(readable, outputs, strict=True):
                image_id = len(images) + 1
                images.append(
                    {"id": image_id, "file_name": str(file), "height": image.shape[0], "width": image.shape[1]}
                )
                for row in detections.to_coco(image_id):
                    annotations.append(
                        {"id": len(annotations) + 1, **row, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
                    )
                with optional(file):
                    path = free_name(args.output, file, taken)
                    write_annotated(image, detections, args.threshold, path)
                    drawn.append(path.name)
            bar.advance(task, len(chunk))
    categories = [{"id": i, "name": n} for i, n in zip(predictor.category_ids, predictor.classes, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories, "drawn": drawn}
    write_json(results, content, indent=None)
    print(
        f"{len(images)} images, {len(annotations)} detections; annotated images and detections.json are in {args.output}"
    )
    if unreadable:
        print(f"{len(unreadable)} of {len(files)} files could not be read:\n  " + "\n  ".join(unreadable))
    return 1 if unreadable else 0


def _own_files(output: Path, inputs: Sequence[Path], results: Path) -> list[Path]:
    """Return what an input folder may contain of this command's own results: the output folder, or, where that is an input
    too or has one in it, what earlier runs drew there."""
    folder = output.resolve()
    if not any(folder in (path.resolve(), *path.resolve().parents) for path in inputs):
        return [output]
    return [*(output / name for name in _drawn(results)), *output.glob("earlier-*")]


def _drawn(results: Path) -> list[str]:
    """Return the names of the images that an earlier run drew beside its detections.json."""
    try:
        names = json.loads(results.read_text(encoding="utf-8"))["drawn"]
        return [name for name in names if Path(name).name == name]
    except (OSError, ValueError, LookupError, TypeError):  # none, or another program's
        return []
