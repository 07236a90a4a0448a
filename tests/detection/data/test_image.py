import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection.config import DataConfig
from detection.data import image
from detection.data.image import UnreadableImage, find_images, image_size, read_image

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def write(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_rgb_is_unchanged(tmp_path):
    assert np.array_equal(read_image(write(tmp_path, Image.fromarray(PIXELS))), PIXELS)


def test_grey_palette_and_one_bit(tmp_path):
    grey = Image.fromarray(PIXELS[:, :, 0])
    assert np.array_equal(read_image(write(tmp_path, grey))[:, :, 2], PIXELS[:, :, 0])
    palette = Image.fromarray(PIXELS).quantize(64)
    assert np.array_equal(read_image(write(tmp_path, palette)), np.asarray(palette.convert("RGB")))
    assert set(np.unique(read_image(write(tmp_path, Image.fromarray(PIXELS[:, :, 0] > 30))))) == {0, 255}


def test_16_bit_keeps_its_high_byte(tmp_path):
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    assert read_image(write(tmp_path, Image.fromarray(values)))[:, :, 0].tolist() == [[0, 0, 1], [128, 255, 255]]


def test_alpha_is_composited_over_black(tmp_path):
    rgba = np.dstack((np.full((1, 3, 3), 200, np.uint8), np.array([[0, 128, 255]], np.uint8)))
    assert read_image(write(tmp_path, Image.fromarray(rgba)))[0, :, 0].tolist() == [0, 100, 200]


def test_cmyk(tmp_path):
    path = write(tmp_path, Image.new("CMYK", (5, 4), (0, 255, 255, 0)), "c.jpg")
    assert read_image(path).shape == (4, 5, 3)
    assert read_image(path)[0, 0, 0] > 200 > 60 > read_image(path)[0, 0, 1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_applied(tmp_path, orientation):
    rotated = Image.fromarray(PIXELS)
    exif = rotated.getexif()
    exif[0x0112] = orientation
    path = write(tmp_path, rotated, exif=exif)
    out = read_image(path)
    assert out.shape[:2] == image_size(path) == ((4, 6) if orientation < 5 else (6, 4))
    corner = {1: (0, 0), 2: (0, 5), 3: (3, 5), 4: (3, 0), 5: (0, 0), 6: (3, 0), 7: (3, 5), 8: (0, 5)}[orientation]
    assert np.array_equal(out[0, 0], PIXELS[corner])


def test_invalid_orientation_is_ignored(tmp_path):
    # one entry, the orientation as a LONG of 65537, as some cameras write it
    entry = b"\x01\x12\x00\x04\x00\x00\x00\x01" + (65537).to_bytes(4, "big")
    exif = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    path = write(tmp_path, Image.fromarray(PIXELS), "e.jpg", exif=exif)
    assert Image.open(path).getexif()[0x0112] == 65537
    assert read_image(path).shape == (4, 6, 3)
    assert image_size(path) == (4, 6)


def test_format_is_read_from_the_content(tmp_path):
    path = write(tmp_path, Image.fromarray(PIXELS))
    assert np.array_equal(read_image(path.rename(tmp_path / "b.jpg")), PIXELS)


def test_unreadable_files_are_reported(tmp_path):
    path = write(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)), "t.jpg")
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(UnreadableImage, match=r"t.jpg cannot be read as an image: .*truncated"):
        read_image(path)
    (tmp_path / "n.jpg").write_text("not an image")
    with pytest.raises(UnreadableImage, match=r"n\.jpg"):
        read_image(tmp_path / "n.jpg")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "absent.jpg")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with images in it and in one whose name is a pattern itself."""
    (tmp_path / "set [1]").mkdir()
    for name in (
        "b.png",
        "a.png",
        "c.jpg",
        ".hidden.png",
        "set [1]/d.png",
        "set [1]/e.png",
        "photo[1].jpg",
        "photo1.jpg",
    ):
        write(tmp_path, Image.fromarray(PIXELS), name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        (["*.png"], ["a.png", "b.png"]),
        (["?.*"], ["a.png", "b.png", "c.jpg"]),
        (["set [1]/*.png"], ["set [1]/d.png", "set [1]/e.png"]),
        (["**/*.png"], ["a.png", "b.png", "set [1]/d.png", "set [1]/e.png"]),
        (["s*"], ["set [1]/d.png", "set [1]/e.png"]),  # a folder
        (["photo[1].jpg"], ["photo[1].jpg"]),  # a file of that name
        (["c.jpg", "[ab].png"], ["c.jpg", "a.png", "b.png"]),
    ],
)
@pytest.mark.parametrize("absolute", [False, True])
def test_wildcards_are_expanded_where_a_shell_does_not(folder, inputs, wanted, absolute):
    base = folder if absolute else Path()
    assert find_images([base / name for name in inputs]) == [base / name for name in wanted]


@pytest.mark.parametrize("name", ["*.webp", "none/*.png", "photo[2].jpg"])
def test_a_wildcard_without_a_match_is_named(folder, name):
    with pytest.raises(FileNotFoundError, match=re.escape(f"no file or folder matches {Path(name)}")):
        find_images([Path("a.png"), Path(name)])


def test_decompression_bombs_raise(tmp_path):
    path, limit = write(tmp_path, Image.fromarray(PIXELS)), Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadableImage, match=r"6x4 pixels, more than the 20 allowed.*data.max_pixels=24"):
        read_image(path, max_pixels=20)
    assert read_image(path, max_pixels=24).shape == (4, 6, 3)
    assert limit == Image.MAX_IMAGE_PIXELS == image.MAX_PIXELS  # Pillow's own is as it was, and ours by default


def test_the_configurations_bound_is_the_readers():
    assert DataConfig().max_pixels == image.MAX_PIXELS


def test_more_than_pillows_limit_is_read_where_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)  # Pillow refuses twice as many
    path = write(tmp_path, Image.fromarray(PIXELS))
    assert read_image(path, max_pixels=24).shape == (4, 6, 3)
    assert image_size(path) == (4, 6)
    assert Image.MAX_IMAGE_PIXELS == 5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.linspace(0, 1, 12, dtype=np.float32), "floating-point numbers from 0 to 1, whose range is unknown"),
        (np.arange(12, dtype=np.int32), "32-bit numbers from 0 to 11"),
    ],
)
def test_numbers_without_a_range_are_refused(tmp_path, values, words):
    path = write(tmp_path, Image.fromarray(values.reshape(3, 4)), "a.tif")
    with pytest.raises(UnreadableImage, match=rf"a\.tif.*{words}"):
        read_image(path)


def test_a_16_bit_tiff_is_read_as_a_png_is(tmp_path):
    values = np.array([[0, 255, 256], [32768, 65280, 65535]], dtype=np.uint16)
    path = write(tmp_path, Image.fromarray(values), "a.tif")
    assert read_image(path)[:, :, 0].tolist() == [[0, 0, 1], [128, 255, 255]]


@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this Pillow reads no AVIF")
def test_avif(tmp_path):
    assert read_image(write(tmp_path, Image.fromarray(PIXELS), "a.avif")).shape == (4, 6, 3)


@pytest.mark.parametrize(("quality", "subsampling"), [(95, 0), (75, 1), (40, 2)])
@pytest.mark.parametrize("size", [(64, 48), (61, 47), (1, 1), (7, 300)])
def test_torchcodec_equals_pillow(tmp_path, monkeypatch, quality, subsampling, size):
    if image._jpeg_decoder() is None:
        pytest.skip("torchcodec is not installed")
    file = tmp_path / "a.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, quality=quality, subsampling=subsampling)
    torchcodec_pixels = read_image(file)
    monkeypatch.setattr(image, "_jpeg_decoder", lambda: None)
    pillow_pixels = read_image(file)
    assert np.array_equal(torchcodec_pixels, pillow_pixels)
    assert torchcodec_pixels.strides == pillow_pixels.strides
    assert torchcodec_pixels.dtype == pillow_pixels.dtype == np.uint8


@pytest.mark.parametrize("decoder", ["torchcodec", "Pillow"])
def test_truncated_jpegs_raise(tmp_path, monkeypatch, decoder):
    if decoder == "Pillow":
        monkeypatch.setattr(image, "_jpeg_decoder", lambda: None)
    elif image._jpeg_decoder() is None:
        pytest.skip("torchcodec is not installed")
    file = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)).save(file)
    whole = file.read_bytes()
    for fraction in (0.3, 0.6, 0.9):
        file.write_bytes(whole[: int(fraction * len(whole))])
        with pytest.raises(UnreadableImage, match=r"a\.jpg"):
            read_image(file)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"comment": b"hello"}, {"exif": True}, {"dpi": (72, 72)}]
)
def test_sizes_of_jpegs_equal_pillows(tmp_path, mode, options):
    options = dict(options)
    if options.pop("exif", False):
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn
        options["exif"] = exif
    Image.new(mode, (31, 17)).save(tmp_path / "a.jpg", **options)
    assert image_size(tmp_path / "a.jpg") == ((31, 17) if "exif" in options else (17, 31))


@pytest.mark.parametrize("cut", [1, 3, 20, 100, 160])
def test_jpegs_that_end_in_their_header_are_unreadable(tmp_path, cut):
    Image.new("RGB", (31, 17)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:cut])
    with pytest.raises(UnreadableImage):
        image_size(tmp_path / "a.jpg")
