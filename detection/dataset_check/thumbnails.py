"""Small JPEGs of a dataset's images, for a page."""

import base64
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from detection.data.image import is_rotated, read_image
from detection.data.loader import ImageReader

_QUALITY = 72
_THREADS = 4


def thumbnails(
    files: Sequence[str],
    side: int,
    read: ImageReader = read_image,
    progress: Callable[[], None] = lambda: None,
) -> list[str | None]:
    """Return each image as a JPEG in base64, at most ``side`` pixels wide and high; None where it cannot be read.

    Args:
        files: paths.
        side: in pixels.
        read: reads an image; files that Pillow decodes as JPEG are decoded at a fraction of their size.
        progress: called after each image.
    """

    def one(file: str) -> str | None:
        result = _thumbnail(file, side, read)
        progress()
        return result

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(one, files))


def _thumbnail(file: str, side: int, read: ImageReader) -> str | None:
    try:
        image = _draft(file, side) if read is read_image else None
        if image is None:
            image = Image.fromarray(read(file))
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
        out = io.BytesIO()
        image.save(out, "JPEG", quality=_QUALITY)
    except Exception:  # decoders raise many types of error on corrupt files; the check names them
        return None
    return base64.b64encode(out.getvalue()).decode("ascii")


def _draft(file: str, side: int) -> Image.Image | None:
    """Return a JPEG decoded at a fraction of its size; None for another file, or one that its EXIF data rotate."""
    with Image.open(file) as image:
        if image.format != "JPEG" or is_rotated(image):
            return None
        image.draft("RGB", (side, side))
        return image.convert("RGB")
