"""Small data sets on disk: COCO's format, images that look different, and some that look alike."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "emu")
SIZE = (64, 48)  # width, height


def write_image(path: Path, seed: int, quality: int = 90) -> None:
    """Write an image whose look depends on the seed alone: a smooth random pattern."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=quality)


def coco_set(root: Path, objects: list[list[str]], split: str = "all", alike: dict[int, int] | None = None) -> Path:
    """Write a COCO set of one image for each list of class names, boxes of 20x16 px in a row.

    Args:
        root: of the data set.
        objects: class names of each image's objects.
        split: annotations/instances_SPLIT.json and SPLIT/.
        alike: {image: another}: the image is the other one's, saved again in another quality.
    """
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / split).mkdir()
    seed = sum(map(ord, split)) * 1000
    images, annotations = [], []
    for i, names in enumerate(objects):
        write_image(
            root / split / f"{i:03d}.jpg", seed + (alike or {}).get(i, i), quality=60 if i in (alike or {}) else 90
        )
        images.append({"id": i + 1, "file_name": f"{i:03d}.jpg", "width": SIZE[0], "height": SIZE[1]})
        for k, name in enumerate(names):
            box = [2 + 3 * k, 4 + 2 * k, 20, 16]
            category = CLASSES.index(name) + 1
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i + 1, "category_id": category, "bbox": box, "area": 320}
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def keys(root: Path, train: str = "all", val: str = "0.25") -> list[str]:
    """The keys that name a set of :func:`coco_set`."""
    return ["data.format=coco", f"data.root={root}", f"data.train={train}", f"data.val={val}"]
