"""Draw boxes on images. Depends on arrays alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

RGBImage = NDArray[np.uint8]  # [H, W, 3]
# distinguishable with colour vision deficiencies (Okabe and Ito, 2008, without black)
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


@dataclass(frozen=True)
class BoxAnnotations:
    """Boxes to draw: xyxy [n, 4], labels 1..K [n], and scores [n] or None for ground truth."""

    boxes: Sequence[Sequence[float]]
    labels: Sequence[int]
    scores: Sequence[float] | None = None


def displayable(image: NDArray[np.uint8]) -> RGBImage:
    """Return an image [H, W] or [H, W, C] as RGB: grey three times, of more channels the first three."""
    image = image[:, :, None] if image.ndim == 2 else image
    return (
        image
        if image.shape[2] == 3
        else np.repeat(image[:, :, :1], 3, axis=2)
        if image.shape[2] < 3
        else image[:, :, :3]
    )


def draw(image: RGBImage, annotations: BoxAnnotations, classes: Sequence[str]) -> RGBImage:
    """Return a copy of an image with boxes and their class names (and scores), in reverse order: the first is on top."""
    canvas = Image.fromarray(displayable(image))
    drawing = ImageDraw.Draw(canvas)
    width = max(1, round(max(image.shape[:2]) / 300))
    font = ImageFont.load_default(size=max(10, round(max(image.shape[:2]) / 40)))
    for k in reversed(range(len(annotations.boxes))):
        box, label = [float(v) for v in annotations.boxes[k]], annotations.labels[k]
        if not (box[0] <= box[2] and box[1] <= box[3]):
            continue  # degenerate or non-finite
        colour = _COLOURS[(label - 1) % len(_COLOURS)]
        drawing.rectangle(box, outline=colour, width=width)
        text = classes[label - 1] + (f" {annotations.scores[k]:.2f}" if annotations.scores is not None else "")
        *_, right, bottom = drawing.textbbox((0, 0), text, font=font)
        x = min(max(box[0], 0), max(image.shape[1] - right, 0))
        y = box[1] - bottom - 1 if box[1] > bottom + 1 else box[1] + width
        drawing.rectangle((x, y, x + right + 2, y + bottom + 1), fill=colour)
        drawing.text((x + 1, y), text, fill="black", font=font)
    return np.asarray(canvas)


def side_by_side(left: RGBImage, right: RGBImage, titles: tuple[str, str], gap: int = 8) -> RGBImage:
    """Return two images of equal size next to each other, with titles above; ``gap`` is in pixels."""
    height, width = left.shape[:2]
    header = 20
    canvas = Image.new("RGB", (2 * width + gap, height + header), "white")
    drawing = ImageDraw.Draw(canvas)
    for i, (image, title) in enumerate(zip((left, right), titles, strict=True)):
        x = i * (width + gap)
        canvas.paste(Image.fromarray(image), (x, header))
        drawing.text((x + 4, 2), title, fill="black", font=ImageFont.load_default(size=13))
    return np.asarray(canvas)


def contact_sheet(images: Sequence[RGBImage], columns: int, gap: int = 8) -> RGBImage:
    """Return images of any size in rows of ``columns`` on a white sheet; ``gap`` is in pixels."""
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    width = max(sum(image.shape[1] + gap for image in row) for row in rows) - gap
    height = sum(max(image.shape[0] for image in row) + gap for row in rows) - gap
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    y = 0
    for row in rows:
        x = 0
        for image in row:
            sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
            x += image.shape[1] + gap
        y += max(image.shape[0] for image in row) + gap
    return sheet
