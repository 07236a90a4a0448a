"""Synthetic dataset: images of six shapes rendered from a seed, so that the detector runs without any files.

A class is defined by its outline alone. Objects and the distractor blobs of the background draw their colours and textures
from one distribution, so that neither reveals the class, nor whether there is an object.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detection.data.annotations import Annotations, Strings

VAL_SEED = 1_000_003  # added to the seed of a validation set, so that it shares no image with training
CLASSES = ("crescent", "cross", "disc", "square", "star", "triangle")
SIZE_RANGE = (16.0, 200.0)  # longer side of an object's box in pixels, log-uniform
IMAGE_SIZES = ((256, 320), (320, 256), (288, 288))  # height, width
_EMPTY_FRACTION = 0.08  # of images without objects
_MAX_OBJECTS = 7
_MAX_OCCLUSION = 0.35  # fraction of an object's box that a later one may cover
_SUPERSAMPLING = 3
_MIN_CONTRAST = 90.0  # RGB distance between an object and its background

Array = NDArray[np.float64]
Canvas = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """One object of a scene: label 1..6, outline [n, 2] (x, y) in pixels."""

    label: int
    outline: Array

    @property
    def box(self) -> Array:
        """Return the outline's bounding box, xyxy."""
        return np.concatenate((self.outline.min(axis=0), self.outline.max(axis=0)))


@dataclass(frozen=True)
class Scene:
    """The size (height, width) and objects of an image, before rendering."""

    size: tuple[int, int]
    shapes: tuple[Shape, ...]


def _arc(start: float, end: float, count: int = 40) -> Array:
    angle = np.linspace(start, end, count)
    return np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _zigzag(corners: int, inner: float) -> Array:
    radius = np.where(np.arange(2 * corners) % 2 == 0, 1.0, inner)
    angle = np.arange(2 * corners) * math.pi / corners
    return radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _crescent() -> Array:
    outer = _arc(0.6, 2 * math.pi - 0.6)
    tip = outer[-1]
    centre_x, radius = 0.75, math.hypot(tip[0] - 0.75, tip[1])
    start = math.atan2(tip[1], tip[0] - centre_x) % (2 * math.pi)
    inner = _arc(start, 2 * math.pi - start) * radius + (centre_x, 0.0)
    return np.concatenate((outer, inner))


_ARM = 0.3
_CROSS = [
    (1, _ARM),
    (_ARM, _ARM),
    (_ARM, 1),
    (-_ARM, 1),
    (-_ARM, _ARM),
    (-1, _ARM),
    (-1, -_ARM),
    (-_ARM, -_ARM),
    (-_ARM, -1),
    (_ARM, -1),
    (_ARM, -_ARM),
    (1, -_ARM),
]
OUTLINES: dict[str, Array] = {
    "crescent": _crescent(),
    "cross": np.array(_CROSS, dtype=np.float64),
    "disc": _arc(0, 2 * math.pi, 60),
    "square": np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)], dtype=np.float64),
    "star": _zigzag(5, 0.42),
    "triangle": _arc(0, 4 * math.pi / 3, 3),
}


def random_shape(rng: Generator, label: int, long_side: float) -> Shape:
    """Return a randomly rotated shape whose box has its longer side ``long_side`` pixels and its corner at the origin."""
    angle = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    outline = OUTLINES[CLASSES[label - 1]] @ rotation
    outline = outline - outline.min(axis=0)
    return Shape(label, outline * (long_side / outline.max()))


def make_scene(seed: int, index: int) -> Scene:
    """Return the size and objects of image ``index`` of a seed, without rendering it."""
    rng = np.random.default_rng((seed, index, 0))
    height, width = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    if rng.random() < _EMPTY_FRACTION:
        return Scene((height, width), ())
    shapes: list[Shape] = []
    low, high = np.log(SIZE_RANGE)
    for _ in range(rng.integers(1, _MAX_OBJECTS + 1)):
        long_side = math.exp(rng.uniform(low, high))
        shape = random_shape(rng, int(rng.integers(1, len(CLASSES) + 1)), long_side)
        for _ in range(20):
            max_offset = np.array([width, height]) - shape.outline.max(axis=0)
            placed = Shape(shape.label, shape.outline + rng.uniform(0, 1, 2) * max_offset)
            if all(_occlusion(other.box, placed.box) <= _MAX_OCCLUSION for other in shapes):
                shapes.append(placed)
                break
    return Scene((height, width), tuple(shapes))


def _occlusion(box: Array, occluder: Array) -> float:
    """Return the fraction of a box's area that another box covers."""
    overlap = np.clip(np.minimum(box[2:], occluder[2:]) - np.maximum(box[:2], occluder[:2]), 0, None)
    return float(overlap.prod() / (box[2:] - box[:2]).prod())


def draw_scene(scene: Scene, seed: int, index: int) -> NDArray[np.uint8]:
    """Draw a scene to uint8 RGB [H, W, 3]: background texture, blobs, then the objects in order."""
    rng = np.random.default_rng((seed, index, 1))
    canvas = _texture(rng, *scene.size)
    area = scene.size[0] * scene.size[1]
    for _ in range(rng.integers(area // 12000, area // 5000)):
        _paint(canvas, _blob(rng, scene.size), rng)
    for shape in scene.shapes:
        _paint(canvas, shape.outline, rng)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def draw_crop(rng: Generator, label: int, side: int) -> tuple[NDArray[np.uint8], Array]:
    """Draw one object of random size near the centre of a cluttered square, or none for label 0.

    Args:
        rng: of all random choices.
        label: 1..6, or 0 for background.
        side: of the crop in pixels.

    Returns:
        uint8 RGB [side, side, 3], and the object's box xyxy in pixels (for label 0 a random square at the centre).
    """
    canvas = _texture(rng, side, side)
    for _ in range(rng.integers(1, 5)):
        _paint(canvas, _blob(rng, (side, side)), rng)
    long_side = math.exp(rng.uniform(math.log(0.35 * side), math.log(0.9 * side)))
    if label:
        outline = random_shape(rng, label, long_side).outline
        outline += side / 2 - outline.max(axis=0) / 2 + rng.uniform(-0.05, 0.05, 2) * long_side
        _paint(canvas, outline, rng)
        box = np.concatenate((outline.min(axis=0), outline.max(axis=0)))
    else:
        _paint(canvas, _blob(rng, (side, side)), rng)
        box = np.array((-long_side, -long_side, long_side, long_side)) / 2 + side / 2
    return np.clip(canvas, 0, 255).astype(np.uint8), box


def _blob(rng: Generator, size: tuple[int, int]) -> Array:
    """Return a smooth closed outline [40, 2] anywhere in an image of ``size``, too irregular to look like a disc."""
    angle = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    radius = np.ones_like(angle)
    for harmonic in (2, 3, 4):
        radius += rng.uniform(0.12, 0.3) * np.cos(harmonic * angle + rng.uniform(0, 2 * math.pi))
    radius *= math.exp(rng.uniform(math.log(4), math.log(60)))
    centre = rng.uniform(0, 1, 2) * (size[1], size[0])
    return centre + radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _texture(rng: Generator, height: int, width: int, background: Canvas | None = None) -> Canvas:
    """Return a texture, float32 [height, width, 3]: a smooth blend of two colours, sometimes stripes, and noise.

    The first colour is at least ``_MIN_CONTRAST`` from the mean of ``background``, so that the outline is visible.
    """
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    if background is not None:
        background_colour = background.mean(axis=(0, 1))
        while np.linalg.norm(first - background_colour) < _MIN_CONTRAST:
            first = rng.uniform(20, 235, 3).astype(np.float32)
    gradient = (second - first) * np.float32(rng.uniform(0.1, 0.35))
    coarse = rng.integers(0, 256, (4, 4), dtype=np.uint8)
    blend = (
        np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    )
    if rng.random() < 0.3:
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        angle, period = rng.uniform(0, math.pi), rng.uniform(5, 30)
        stripes = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period))
        blend = blend * 0.5 + 0.25 + 0.25 * stripes
    noise = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(1, 5))
    return (blend[:, :, None] * gradient + (first + noise)).astype(np.float32, copy=False)


def _paint(canvas: Canvas, outline: Array, rng: Generator) -> None:
    """Fill an outline with a random texture in place, with an antialiased edge."""
    height, width = canvas.shape[:2]
    x1, y1 = np.maximum(np.floor(outline.min(axis=0)).astype(int), 0)
    x2, y2 = np.minimum(np.ceil(outline.max(axis=0)).astype(int), (width, height))
    if x2 <= x1 or y2 <= y1:
        return
    scale = _SUPERSAMPLING
    mask = Image.new("L", ((x2 - x1) * scale, (y2 - y1) * scale))
    # a vertex at pixel coordinate c lies between samples c·scale - 1/2 and + 1/2
    points = ((outline - (x1, y1)) * scale - 0.5).ravel().tolist()
    ImageDraw.Draw(mask).polygon(points, fill=255)
    alpha = np.asarray(mask.reduce(scale), dtype=np.float32)[:, :, None] / 255
    patch = canvas[y1:y2, x1:x2]
    patch += alpha * (_texture(rng, y2 - y1, x2 - x1, background=patch) - patch)


def image_name(seed: int, index: int) -> str:
    """Return the name that a synthetic image has in place of a path."""
    return f"shapes-{seed}-{index:06d}.png"


def draw_image(name: str) -> NDArray[np.uint8]:
    """Draw the image of a name from :func:`image_name`, uint8 RGB [H, W, 3]."""
    _, seed, index = name.removesuffix(".png").split("-")
    return draw_scene(make_scene(int(seed), int(index)), int(seed), int(index))


def shapes_records(count: int, seed: int) -> Annotations:
    """Return the annotations of the first ``count`` images of a seed."""
    scenes = [make_scene(seed, i) for i in range(count)]
    flat = [shape for scene in scenes for shape in scene.shapes]
    boxes = np.array([s.box for s in flat], dtype=np.float64).reshape(-1, 4)
    size = boxes[:, 2:] - boxes[:, :2]
    return Annotations(
        name=f"shapes (seed {seed})",
        classes=CLASSES,
        category_ids=tuple(range(1, len(CLASSES) + 1)),
        image_ids=list(range(1, count + 1)),
        files=Strings([image_name(seed, i) for i in range(count)]),
        sizes=np.array([scene.size for scene in scenes], dtype=np.int64).reshape(-1, 2),
        offsets=np.cumsum([0, *(len(scene.shapes) for scene in scenes)], dtype=np.int64),
        boxes=boxes,
        labels=np.array([s.label for s in flat], dtype=np.int64),
        areas=size[:, 0] * size[:, 1],
        crowd=np.zeros(len(flat), dtype=bool),
        difficult=np.zeros(len(flat), dtype=bool),
    )
