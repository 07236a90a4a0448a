from fractions import Fraction

import numpy as np
import pytest

from detection.inference.video import VideoWriter, frame_count, is_video, open_video, read_frames


def frames(count, height=48, width=64):
    """Grey that grows from frame to frame, with a red square."""
    result = []
    for i in range(count):
        image = np.full((height, width, 3), 20 * i, np.uint8)
        image[8:24, 8:24] = (255, 0, 0)
        result.append(image)
    return result


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "film.mp4"
    with VideoWriter(path, Fraction(10)) as writer:
        for image in frames(6):
            writer.write(image)
    return path


def test_what_is_written_is_read(film):
    read = list(read_frames(str(film)))
    assert [round(seconds, 3) for _, seconds, _ in read] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert {rate for _, _, rate in read} == {Fraction(10)}
    for (image, _, _), wanted in zip(read, frames(6), strict=True):
        assert image.shape == (48, 64, 3)
        assert abs(int(image[40, 50, 0]) - int(wanted[40, 50, 0])) < 8
        assert image[14, 14, 0] > 200
        assert image[14, 14, 1] < 60
    assert frame_count(str(film)) == 6


def test_odd_sides_are_cut(tmp_path):
    with VideoWriter(tmp_path / "odd.mp4", Fraction(5)) as writer:
        writer.write(frames(1, 33, 51)[0])
        with pytest.raises(ValueError, match="frames of 32x50, got one of 48x64"):
            writer.write(frames(1)[0])
    assert next(read_frames(str(tmp_path / "odd.mp4")))[0].shape == (32, 50, 3)


def test_other_files_are_one_message(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.mp4"):
        open_video(str(tmp_path / "none.mp4"))
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad.mp4 cannot be opened as video"):
        open_video(str(tmp_path / "bad.mp4"))
    with pytest.raises(ValueError, match="webcam 97 cannot be opened"):
        open_video("97")


def test_playlists_are_not_followed(tmp_path, film):
    """A file that names others would open what its author likes."""
    (tmp_path / "list.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {film}\n")
    for name in ("list.mp4", "concat.mp4"):
        with pytest.raises(ValueError, match="cannot be opened as video"):
            open_video(str(tmp_path / name))


def test_names_of_videos():
    assert is_video("a/B.MP4")
    assert is_video("rtsp://camera/1")
    assert not is_video("a.jpg")
