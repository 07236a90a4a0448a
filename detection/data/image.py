"""From an image file to RGB bytes: any mode, turned as its EXIF says, or one clear error."""

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_EXIF_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)  # orientations that swap height and width


class UnreadableImage(ValueError):
    """An image file that cannot be decoded; the message names it."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Decodes a file to RGB [H, W, 3] uint8.

    Palette, grey, RGBA (over black), CMYK and 16-bit pictures are converted; EXIF orientation is applied; the format is
    told by the content, not by the name.

    Raises:
        FileNotFoundError: no such file.
        UnreadableImage: not an image, truncated, or larger than Pillow's limit against decompression bombs.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                decode = _jpeg_decoder()
                plain = image.format == "JPEG" and image.mode == "RGB" and not _is_turned(image)
                if decode is not None and plain:
                    pixels: NDArray[np.uint8] = decode(path).permute(1, 2, 0).contiguous().numpy()
                    return pixels
                return as_rgb(image)
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a damaged file leads them to
        raise UnreadableImage(f"{path} cannot be read as an image: {error}") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width after turning, from the header alone.

    Raises:
        FileNotFoundError, UnreadableImage: as :func:`read_image`.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED
    except FileNotFoundError:
        raise
    except Exception as error:
        raise UnreadableImage(f"{path} cannot be read as an image: {error}") from error
    return (width, height) if turned else (height, width)


def find_images(inputs: Sequence[Path], leave_out: Path | None = None) -> list[Path]:
    """The files among the inputs, and the images in the folders among them, sorted, without those in ``leave_out``.

    Raises:
        FileNotFoundError: an input is not there.
        ValueError: no image at all.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
            files += [f for f in found if leave_out is None or leave_out.resolve() not in f.resolve().parents]
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"no file or folder {path}")
    if not files:
        raise ValueError(f"no images ({', '.join(SUFFIXES)}) in {', '.join(map(str, inputs))}")
    return files


@functools.cache
def _jpeg_decoder() -> Any:
    """torchcodec's, where it is installed: the same pixels as Pillow's, sooner."""
    try:
        from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]  # an extra
    except Exception:  # absent, or built for another torch
        return None
    return decode_jpeg


def _is_turned(image: Image.Image) -> bool:
    return image.getexif().get(_EXIF_ORIENTATION, 1) in range(2, 9)  # not 1, absent, or nonsense such as 65537


def as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return a PIL image's pixels as uint8 RGB [H, W, 3], its EXIF orientation applied, as :func:`read_image` does."""
    return np.asarray(_to_rgb(_turn(image)))


def _turn(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _is_turned(image) else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion would clip at 255
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")
