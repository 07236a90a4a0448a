import base64
import io

import numpy as np
from own_data import write_image
from PIL import Image

from detection.dataset_check.thumbnails import thumbnails


def decoded(text):
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_small_jpegs_of_any_file(tmp_path):
    write_image(tmp_path / "a.jpg", 1)
    write_image(tmp_path / "b.png", 1)
    (tmp_path / "c.jpg").write_bytes(b"no image")
    done = []
    small = thumbnails([str(tmp_path / n) for n in ("a.jpg", "b.png", "c.jpg")], 32, progress=lambda: done.append(1))
    assert [decoded(text).size for text in small[:2]] == [(32, 24)] * 2
    assert small[2] is None
    assert len(done) == 3
    a, b = (np.asarray(decoded(text), dtype=float) for text in small[:2])
    assert abs(a - b).mean() < 8


def test_rotated_and_large_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg", exif=exif)
    (text,) = thumbnails([str(tmp_path / "a.jpg")], 64)
    assert decoded(text).size == (48, 64)


def test_images_of_another_reader():
    (text,) = thumbnails(["any"], 64, lambda file: np.zeros((20, 30, 3), dtype=np.uint8))
    assert decoded(text).size == (30, 20)
