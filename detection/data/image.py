"""Decode image files of any mode to RGB, with their EXIF orientation applied."""

import functools
import glob
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
_EXIF_ORIENTATION = 0x0112
_SWAP_SIDES = (5, 6, 7, 8)  # orientations that swap height and width


class UnreadableImage(ValueError):
    """Raised for an image file that cannot be decoded; the message names it."""


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Decode an image file to uint8 RGB [H, W, 3].

    Palette, grey, RGBA (over black), CMYK and 16-bit images are converted, and the EXIF orientation is applied. The
    format is read from the content, not from the file name.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableImage: not an image, truncated, or larger than Pillow's decompression bomb limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                decode = _jpeg_decoder()
                plain_jpeg = image.format == "JPEG" and image.mode == "RGB" and not _is_rotated(image)
                if decode is not None and plain_jpeg:
                    pixels: NDArray[np.uint8] = decode(path).permute(1, 2, 0).contiguous().numpy()
                    return pixels
                return as_rgb(image)
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders raise many types of error on corrupt files
        raise UnreadableImage(f"{path} cannot be read as an image: {error}") from error


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) after EXIF rotation, from the file header alone.

    Raises:
        FileNotFoundError, UnreadableImage: as :func:`read_image`.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            swapped = image.getexif().get(_EXIF_ORIENTATION) in _SWAP_SIDES
    except FileNotFoundError:
        raise
    except Exception as error:
        raise UnreadableImage(f"{path} cannot be read as an image: {error}") from error
    return (width, height) if swapped else (height, width)


def find_images(inputs: Sequence[Path], exclude: Path | None = None) -> list[Path]:
    """Return the input files, and the sorted image files in the input folders.

    Args:
        inputs: files, folders and wildcards (``*.png``, ``**/a?.jpg``), which Windows' shell leaves to the program; folders
            are searched recursively. A file of that very name comes before a wildcard.
        exclude: a folder whose images are skipped.

    Raises:
        FileNotFoundError: an input does not exist, or a wildcard matches nothing.
        ValueError: no images found.
    """
    files: list[Path] = []
    for path in (match for given in inputs for match in _expand(given)):
        if path.is_dir():
            images = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
            files += [f for f in images if exclude is None or exclude.resolve() not in f.resolve().parents]
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"no file or folder {path}")
    if not files:
        raise ValueError(f"no images ({', '.join(SUFFIXES)}) found in {', '.join(map(str, inputs))}")
    return files


def _expand(path: Path) -> list[Path]:
    """Return what a path with wildcards matches, sorted; any other path as it is."""
    if path.exists() or not any(sign in str(path) for sign in "*?["):
        return [path]
    folder = next((parent for parent in path.parents if parent.exists()), Path())  # whose name may have brackets
    if not (matches := sorted(glob.glob(str(path.relative_to(folder)), root_dir=folder, recursive=True))):
        raise FileNotFoundError(f"no file or folder matches {path}")
    return [folder / match for match in matches]


@functools.cache
def _jpeg_decoder() -> Any:
    """Return torchcodec's JPEG decoder, faster than Pillow's with the same pixels, or None where it is not installed."""
    try:
        from torchcodec.decoders import decode_jpeg  # type: ignore[attr-defined]  # optional dependency
    except Exception:  # not installed, or built for another version of torch
        return None
    return decode_jpeg


def _is_rotated(image: Image.Image) -> bool:
    return image.getexif().get(_EXIF_ORIENTATION, 1) in range(2, 9)  # not 1, missing, or invalid such as 65537


def as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return a PIL image's pixels as uint8 RGB [H, W, 3], its EXIF orientation applied, as :func:`read_image` does."""
    return np.asarray(_to_rgb(_apply_exif(image)))


def _apply_exif(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if _is_rotated(image) else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's conversion would clip at 255
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")
