"""The embedded set: pictures of six shapes drawn from a seed, so that the detector runs without any files.

A class is its outline alone. Objects and the blobs that clutter the background take their colours and textures from one
distribution, so neither tells what a thing is, nor whether it is one.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detection.data.annotations import Records, Strings

CLASSES = ("crescent", "cross", "disc", "square", "star", "triangle")
SIZE_RANGE = (16.0, 200.0)  # longer side of an object's box in pixels, log-uniform
PICTURE_SIZES = ((256, 320), (320, 256), (288, 288))  # height, width
_EMPTY_SHARE = 0.08
_MAX_OBJECTS = 7
_MAX_COVER = 0.35  # share of an object's box that later ones may hide
_SUPERSAMPLING = 3
_MIN_CONTRAST = 90.0  # between a thing and what it lies on, as a distance of RGB colours

Array = NDArray[np.float64]
Canvas = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """One object of a scene: label 1..6, outline [n, 2] (x, y) in pixels."""

    label: int
    outline: Array

    @property
    def box(self) -> Array:
        """xyxy of the outline."""
        return np.concatenate((self.outline.min(axis=0), self.outline.max(axis=0)))


@dataclass(frozen=True)
class Scene:
    """What a picture holds, before it is drawn."""

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
    bite = math.atan2(tip[1], tip[0] - centre_x) % (2 * math.pi)
    inner = _arc(bite, 2 * math.pi - bite) * radius + (centre_x, 0.0)
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


def draw_shape(rng: Generator, label: int, longest: float) -> Shape:
    """An outline at a random angle with its box's longer side ``longest`` pixels, its box at the origin."""
    angle = rng.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    outline = OUTLINES[CLASSES[label - 1]] @ rotation
    outline = outline - outline.min(axis=0)
    return Shape(label, outline * (longest / outline.max()))


def make_scene(seed: int, index: int) -> Scene:
    """The scene of picture ``index`` of a set: its size and objects, without drawing it."""
    rng = np.random.default_rng((seed, index, 0))
    height, width = PICTURE_SIZES[rng.integers(len(PICTURE_SIZES))]
    if rng.random() < _EMPTY_SHARE:
        return Scene((height, width), ())
    shapes: list[Shape] = []
    low, high = np.log(SIZE_RANGE)
    for _ in range(rng.integers(1, _MAX_OBJECTS + 1)):
        longest = math.exp(rng.uniform(low, high))
        shape = draw_shape(rng, int(rng.integers(1, len(CLASSES) + 1)), longest)
        for _ in range(20):
            reach = np.array([width, height]) - shape.outline.max(axis=0)
            placed = Shape(shape.label, shape.outline + rng.uniform(0, 1, 2) * reach)
            if all(_covered(other.box, placed.box) <= _MAX_COVER for other in shapes):
                shapes.append(placed)
                break
    return Scene((height, width), tuple(shapes))


def _covered(box: Array, by: Array) -> float:
    """Share of a box's area that another box hides."""
    overlap = np.clip(np.minimum(box[2:], by[2:]) - np.maximum(box[:2], by[:2]), 0, None)
    return float(overlap.prod() / (box[2:] - box[:2]).prod())


def draw_scene(scene: Scene, seed: int, index: int) -> NDArray[np.uint8]:
    """The picture of a scene, RGB [H, W, 3]: texture, blobs, then the objects in order."""
    rng = np.random.default_rng((seed, index, 1))
    canvas = _texture(rng, *scene.size)
    area = scene.size[0] * scene.size[1]
    for _ in range(rng.integers(area // 12000, area // 5000)):
        _paint(canvas, _blob(rng, scene.size), rng)
    for shape in scene.shapes:
        _paint(canvas, shape.outline, rng)
    return np.clip(canvas, 0, 255).astype(np.uint8)


def draw_crop(rng: Generator, label: int, side: int) -> tuple[NDArray[np.uint8], Array]:
    """One object (or with label 0 none) of random size about the middle of a cluttered square.

    Returns:
        RGB [side, side, 3], and the object's box xyxy in pixels (with label 0 a square about the middle).
    """
    canvas = _texture(rng, side, side)
    for _ in range(rng.integers(1, 5)):
        _paint(canvas, _blob(rng, (side, side)), rng)
    longest = math.exp(rng.uniform(math.log(0.35 * side), math.log(0.9 * side)))
    if label:
        outline = draw_shape(rng, label, longest).outline
        outline += side / 2 - outline.max(axis=0) / 2 + rng.uniform(-0.05, 0.05, 2) * longest
        _paint(canvas, outline, rng)
        box = np.concatenate((outline.min(axis=0), outline.max(axis=0)))
    else:
        _paint(canvas, _blob(rng, (side, side)), rng)
        box = np.array((-longest, -longest, longest, longest)) / 2 + side / 2
    return np.clip(canvas, 0, 255).astype(np.uint8), box


def _blob(rng: Generator, size: tuple[int, int]) -> Array:
    """A closed curve without corners, too uneven to pass for a disc, anywhere in the picture."""
    angle = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    radius = np.ones_like(angle)
    for harmonic in (2, 3, 4):
        radius += rng.uniform(0.12, 0.3) * np.cos(harmonic * angle + rng.uniform(0, 2 * math.pi))
    radius *= math.exp(rng.uniform(math.log(4), math.log(60)))
    centre = rng.uniform(0, 1, 2) * (size[1], size[0])
    return centre + radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)


def _texture(rng: Generator, height: int, width: int, under: Canvas | None = None) -> Canvas:
    """[height, width, 3]: a colour with slow changes towards a second one, sometimes stripes, and grain. The colour keeps
    its distance from the mean of what is ``under`` it, so that an outline can be seen."""
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    if under is not None:
        below = under.mean(axis=(0, 1))
        while np.linalg.norm(first - below) < _MIN_CONTRAST:
            first = rng.uniform(20, 235, 3).astype(np.float32)
    change = (second - first) * np.float32(rng.uniform(0.1, 0.35))
    coarse = rng.integers(0, 256, (4, 4), dtype=np.uint8)
    mix = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    if rng.random() < 0.3:
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        angle, period = rng.uniform(0, math.pi), rng.uniform(5, 30)
        stripes = np.sin((x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period))
        mix = mix * 0.5 + 0.25 + 0.25 * stripes
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(rng.uniform(1, 5))
    return (mix[:, :, None] * change + (first + grain)).astype(np.float32, copy=False)


def _paint(canvas: Canvas, outline: Array, rng: Generator) -> None:
    """Fills an outline with a texture of its own, its edge smoothed over a pixel."""
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
    cover = np.asarray(mask.reduce(scale), dtype=np.float32)[:, :, None] / 255
    patch = canvas[y1:y2, x1:x2]
    patch += cover * (_texture(rng, y2 - y1, x2 - x1, under=patch) - patch)


def picture_name(seed: int, index: int) -> str:
    """The name under which a drawn picture goes instead of a path."""
    return f"shapes-{seed}-{index:06d}.png"


def read_picture(name: str) -> NDArray[np.uint8]:
    """Draws the picture of a name."""
    _, seed, index = name.removesuffix(".png").split("-")
    return draw_scene(make_scene(int(seed), int(index)), int(seed), int(index))


def shapes_records(count: int, seed: int) -> Records:
    """The annotations of the first ``count`` pictures of a seed."""
    scenes = [make_scene(seed, i) for i in range(count)]
    flat = [shape for scene in scenes for shape in scene.shapes]
    boxes = np.array([s.box for s in flat], dtype=np.float64).reshape(-1, 4)
    size = boxes[:, 2:] - boxes[:, :2]
    return Records(
        name=f"shapes (seed {seed})",
        classes=CLASSES,
        category_ids=tuple(range(1, len(CLASSES) + 1)),
        image_ids=list(range(1, count + 1)),
        files=Strings([picture_name(seed, i) for i in range(count)]),
        sizes=np.array([scene.size for scene in scenes], dtype=np.int64).reshape(-1, 2),
        offsets=np.cumsum([0, *(len(scene.shapes) for scene in scenes)], dtype=np.int64),
        boxes=boxes,
        labels=np.array([s.label for s in flat], dtype=np.int64),
        areas=size[:, 0] * size[:, 1],
        crowd=np.zeros(len(flat), dtype=bool),
        difficult=np.zeros(len(flat), dtype=bool),
    )
