"""Decode image files of any mode to RGB, with their EXIF orientation applied."""

import contextlib
import functools
import glob
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

# of images beside annotations and in folders; whether a file can be read depends on its content and on Pillow's build
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"),
    *(".avif", ".heic", ".heif", ".jp2", ".ppm", ".pgm", ".tga"),
)
MAX_PIXELS = 89_478_485  # Pillow's own bound against files that decompress to gigabytes
_EXIF_ORIENTATION = 0x0112
_SWAP_SIDES = (5, 6, 7, 8)  # orientations that swap height and width

# of JPEG: frames (baseline, extended, progressive), the scan, and segments that do not concern the size: tables, comments,
# and applications' but APP1, which is EXIF's
_FRAMES, _SCAN = (0xC0, 0xC1, 0xC2), 0xDA
_SEGMENTS = {*_FRAMES, 0xC4, 0xDB, 0xDD, 0xFE, 0xE0, *range(0xE2, 0xF0)}

_PILLOWS_LIMIT = threading.Lock()


class UnreadableImage(ValueError):
    """Raised for an image file that cannot be decoded; the message names it."""


@contextlib.contextmanager
def _opened(path: str | Path, max_pixels: int | None) -> Iterator[Image.Image]:
    """Open an image file and read its header.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableImage: not an image, or one with more than ``max_pixels``; also for errors of decoding in the block.
    """
    try:
        with _PILLOWS_LIMIT:  # a global of Pillow; ours is compared below
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(path)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
        with image:
            width, height = image.size
            if max_pixels is not None and width * height > max_pixels:
                raise UnreadableImage(
                    f"{path} has {width}x{height} pixels, more than the {max_pixels} allowed: if the file is what it "
                    f"should be, allow more by data.max_pixels={width * height} (predict: --max-pixels)"
                )
            yield image
    except (FileNotFoundError, UnreadableImage):
        raise
    except Exception as error:  # Pillow's decoders raise many types of error on corrupt files
        raise UnreadableImage(f"{path} cannot be read as an image: {error}") from error


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode an image file to uint8 RGB [H, W, 3].

    Palette, grey, RGBA (over black), CMYK and 16-bit images are converted, and the EXIF orientation is applied. The
    format is read from the content, not from the file name.

    Args:
        path: of the file.
        max_pixels: height times width of the largest image that is decoded; larger ones may be decompression bombs.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableImage: not an image, truncated, too large, or of floating-point or 32-bit numbers, whose range is unknown.
    """
    with _opened(path, max_pixels) as image:
        decode = _jpeg_decoder()
        if decode is not None and image.format == "JPEG" and image.mode == "RGB" and not is_rotated(image):
            pixels: NDArray[np.uint8] = decode(path).permute(1, 2, 0).contiguous().numpy()
            return pixels
        return as_rgb(image)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return (height, width) after EXIF rotation, from the file header alone.

    Raises:
        FileNotFoundError, UnreadableImage: as :func:`read_image`, whose limit does not count here.
    """
    if (size := _jpeg_size(path)) is not None:
        return size
    with _opened(path, None) as image:
        width, height = image.size
        swapped = image.getexif().get(_EXIF_ORIENTATION) in _SWAP_SIDES
    return (width, height) if swapped else (height, width)


def _jpeg_size(path: str | Path) -> tuple[int, int] | None:
    """Return the (height, width) of a plain JPEG file, five times as fast as Pillow; None where Pillow is to be asked:
    another format, EXIF data, which may rotate it, or anything unusual.

    Raises:
        OSError: the file cannot be opened.
    """
    size = None
    with open(path, "rb") as file:
        if file.read(2) != b"\xff\xd8":
            return None
        while True:
            head = file.read(4)
            if len(head) < 4 or head[0] != 0xFF:
                return None
            marker, length = head[1], int.from_bytes(head[2:], "big") - 2
            if marker == _SCAN:  # what follows are pixels
                return size
            if marker not in _SEGMENTS or length < 0:
                return None
            if marker not in _FRAMES:
                file.seek(length, 1)
                continue
            frame = file.read(length)
            if len(frame) < 6 or frame[0] != 8 or frame[5] not in (1, 3, 4):
                return None
            size = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
            if 0 in size:
                return None


def hidden(name: str) -> bool:
    """Return whether a name is that of a file which macOS adds beside each one on foreign disks (``._NAME``)."""
    return name.startswith("._")


def find_images(inputs: Sequence[Path], exclude: Iterable[Path] = ()) -> list[Path]:
    """Return the input files, and the sorted image files in the input folders.

    Args:
        inputs: files, folders and wildcards (``*.png``, ``**/a?.jpg``), which Windows' shell leaves to the program; folders
            are searched recursively. A file of that very name comes before a wildcard.
        exclude: files, and folders whose images are skipped, where a folder is searched.

    Raises:
        FileNotFoundError: an input does not exist, or a wildcard matches nothing.
        ValueError: no images found.
    """
    files: list[Path] = []
    excluded = {path.resolve() for path in exclude}
    for path in (match for given in inputs for match in _expand(given)):
        if path.is_dir():
            images = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and not hidden(f.name))
            files += [f for f in images if excluded.isdisjoint((f.resolve(), *f.resolve().parents))]
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


def is_rotated(image: Image.Image) -> bool:
    """Return whether an image's EXIF orientation rotates or mirrors it."""
    return image.getexif().get(_EXIF_ORIENTATION, 1) in range(2, 9)  # not 1, missing, or invalid such as 65537


def as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return a PIL image's pixels as uint8 RGB [H, W, 3], its EXIF orientation applied, as :func:`read_image` does."""
    return np.asarray(_to_rgb(_apply_exif(image)))


def _apply_exif(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) if is_rotated(image) else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_numbers(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    return image.convert("RGB")


def _from_numbers(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey, where Pillow's own conversion would clip at 255.

    Raises:
        ValueError: floating-point or 32-bit numbers: which of them is white is not in the file.
    """
    values = np.asarray(image)
    low, high = values.min(), values.max()
    bits = image.tag_v2.get(258, (16,))[0] if hasattr(image, "tag_v2") else 16  # of a TIFF's sample
    if image.mode == "F" or bits > 16 or high > 65535 or low < 0:
        kind = "floating-point" if image.mode == "F" else f"{max(bits, 32)}-bit"
        raise ValueError(f"{kind} numbers from {low:g} to {high:g}, whose range is unknown; convert it to 8 or 16 bits")
    return Image.fromarray((values.astype(np.int64) >> 8).astype(np.uint8)).convert("RGB")
