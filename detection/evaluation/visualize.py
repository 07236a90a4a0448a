"""Boxes drawn on pictures. Knows arrays alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
# told apart on most pictures and by most eyes (Okabe and Ito, 2008, without black)
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


@dataclass(frozen=True)
class Drawn:
    """Boxes to draw: xyxy [n, 4], labels 1..K [n], and scores [n] or None for the truth."""

    boxes: Sequence[Sequence[float]]
    labels: Sequence[int]
    scores: Sequence[float] | None = None


def draw(picture: Picture, drawn: Drawn, classes: Sequence[str]) -> Picture:
    """A copy of RGB [H, W, 3] with boxes and their class names (and scores), worst first, so that the best is on top."""
    image = Image.fromarray(picture)
    canvas = ImageDraw.Draw(image)
    width = max(1, round(max(picture.shape[:2]) / 300))
    font = ImageFont.load_default(size=max(10, round(max(picture.shape[:2]) / 40)))
    for k in reversed(range(len(drawn.boxes))):
        box, label = [float(v) for v in drawn.boxes[k]], drawn.labels[k]
        if not (box[0] <= box[2] and box[1] <= box[3]):
            continue  # turned inside out, or not a number: there is nothing to draw
        colour = _COLOURS[(label - 1) % len(_COLOURS)]
        canvas.rectangle(box, outline=colour, width=width)
        text = classes[label - 1] + (f" {drawn.scores[k]:.2f}" if drawn.scores is not None else "")
        *_, right, bottom = canvas.textbbox((0, 0), text, font=font)
        x = min(max(box[0], 0), max(picture.shape[1] - right, 0))
        y = box[1] - bottom - 1 if box[1] > bottom + 1 else box[1] + width
        canvas.rectangle((x, y, x + right + 2, y + bottom + 1), fill=colour)
        canvas.text((x + 1, y), text, fill="black", font=font)
    return np.asarray(image)


def beside(left: Picture, right: Picture, titles: tuple[str, str], gap: int = 8) -> Picture:
    """Two pictures of one size side by side under their titles."""
    height, width = left.shape[:2]
    head = 20
    sheet = Image.new("RGB", (2 * width + gap, height + head), "white")
    canvas = ImageDraw.Draw(sheet)
    for i, (picture, title) in enumerate(zip((left, right), titles, strict=True)):
        x = i * (width + gap)
        sheet.paste(Image.fromarray(picture), (x, head))
        canvas.text((x + 4, 2), title, fill="black", font=ImageFont.load_default(size=13))
    return np.asarray(sheet)


def contact_sheet(pictures: Sequence[Picture], columns: int, gap: int = 8) -> Picture:
    """Pictures of any size in rows on white."""
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    width = max(sum(p.shape[1] + gap for p in row) for row in rows) - gap
    height = sum(max(p.shape[0] for p in row) + gap for row in rows) - gap
    sheet = np.full((height, width, 3), 255, dtype=np.uint8)
    y = 0
    for row in rows:
        x = 0
        for p in row:
            sheet[y : y + p.shape[0], x : x + p.shape[1]] = p
            x += p.shape[1] + gap
        y += max(p.shape[0] for p in row) + gap
    return sheet
