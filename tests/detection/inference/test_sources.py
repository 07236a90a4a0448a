import io
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from detection.inference import sources
from detection.inference.sources import Frame, Limits, count_frames, find_sources, prefetch, read_source, read_sources
from detection.inference.video import VideoWriter


def photo(path, value=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), (value, 0, 0)).save(path)
    return path


def film(path, count=3):
    with VideoWriter(path, Fraction(5)) as writer:
        for i in range(count):
            writer.write(np.full((32, 48, 3), 60 * i, np.uint8))
    return path


def test_inputs_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a, b = photo(tmp_path / "in" / "a.png"), photo(tmp_path / "in" / "b.jpg")
    (tmp_path / "in" / "list.txt").write_text("# mine\n\na.png\nhttps://example.org/x.jpg\n")
    (tmp_path / "7").mkdir()
    photo(tmp_path / "7" / "c.png")
    inputs = ["in", "in/*.png", "in/list.txt", "http://example.org/y", "rtsp://camera", "film.mp4", "0", "7", "-"]
    assert find_sources(inputs) == [
        *("in/a.png", "in/b.jpg", "in/a.png", "in/a.png", "https://example.org/x.jpg", "http://example.org/y"),
        *("rtsp://camera", "film.mp4", "0", "7/c.png", "-"),
    ]
    assert find_sources([tmp_path / "in"], exclude=[b]) == [str(a)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("none.png", "none.png"),
        ("file:///etc/passwd", "wanted http://"),
        ("ftp://a/b.jpg", "wanted http://"),
        ("empty.txt", "names no image"),
        ("deep.txt", "may not name another list"),
    ],
)
def test_other_inputs_are_refused(tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "deep.txt").write_text("empty.txt\n")
    with pytest.raises((ValueError, OSError), match=words):
        find_sources([given])


def test_frames_come_in_order_with_their_errors(tmp_path):
    files = [photo(tmp_path / f"{i}.png", i) for i in range(7)]
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    names = [str(files[0]), str(tmp_path / "bad.jpg"), str(film(tmp_path / "f.mp4")), *map(str, files[1:])]
    found = list(read_sources(names, Limits(max_frames=2)))
    assert [frame.index for frame in found] == [None, None, 0, 1, *[None] * 6]
    assert [frame.source for frame in found if frame.index is None] == [names[0], names[1], *names[3:]]
    assert found[1].image is None
    assert "bad.jpg" in found[1].error
    assert [int(frame.image[0, 0, 0]) for frame in found[4:]] == [1, 2, 3, 4, 5, 6]
    assert count_frames(names, Limits(max_frames=2)) == 10
    assert count_frames(names, Limits()) == 11
    assert count_frames(["-"], Limits()) is None
    assert count_frames(["0"], Limits()) is None


def test_images_that_are_too_large(tmp_path):
    (frame,) = read_source(str(photo(tmp_path / "a.png")), Limits(max_pixels=100))
    assert "more than the 100 allowed" in frame.error
    content = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ValueError, match="more than the 100 allowed"):
        sources.decode(content, 100, "it")


def stdin(monkeypatch, content):
    class Stdin:
        buffer = io.BytesIO(content)

    monkeypatch.setattr("sys.stdin", Stdin)


def test_standard_input_is_an_image_or_a_list(tmp_path, monkeypatch):
    path = photo(tmp_path / "a.png", 5)
    stdin(monkeypatch, path.read_bytes())
    (frame,) = read_source("-", Limits())
    assert (frame.name, frame.image.shape) == ("stdin", (10, 20, 3))
    stdin(monkeypatch, f"{path}\n\n{tmp_path / 'none.png'}\n".encode())
    first, second = read_source("-", Limits())
    assert int(first.image[0, 0, 0]) == 5
    assert "none.png" in second.error
    stdin(monkeypatch, b"\xff\xfe" * 10)
    assert "standard input cannot be read" in next(read_source("-", Limits())).error
    stdin(monkeypatch, b"x" * 100)
    assert "more than the 10 bytes" in next(read_source("-", Limits(max_bytes=10))).error


def test_names_for_results():
    assert Frame("https://a.org/b/c d.jpg?x=../..", None).name == "c d"
    assert Frame("in/film.mp4", None, 7).name == "film-000007"
    assert Frame("rtsp://camera/", None, 0).name == "camera-000000"
    assert "/" not in Frame("http://a/..%2f..", None).name


def test_reading_ahead_is_bounded_and_ends():
    taken, closed = [], threading.Event()

    def items():
        try:
            for i in range(1000):
                taken.append(i)
                yield i
        finally:
            closed.set()

    ahead = prefetch(items(), 3)
    assert next(ahead) == 0
    time.sleep(0.2)
    assert len(taken) <= 6
    ahead.close()
    assert closed.wait(5)


def test_an_error_while_reading_is_raised_here():
    def items():
        yield 1
        raise OSError("gone")

    ahead = prefetch(items(), 2)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="gone"):
        next(ahead)
