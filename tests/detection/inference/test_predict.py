"""Whole runs of predict as a function, with a detector of bright squares in place of a network."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from detection.inference.detections import Detections
from detection.inference.predict import PredictOptions, made_before, predict, write_crops
from detection.inference.sources import Limits
from detection.inference.stream import detect_stream
from detection.inference.video import VideoWriter, read_frames
from detection.training.run_files.run_dir import move_earlier_run


class Squares:
    classes, category_ids = ("big/square", "b"), (1, 5)

    def limits(self, given):
        return given

    def detect_frames(self, frames, batch_size, views):
        return detect_stream(frames, lambda images: [self.one(image) for image in images], batch_size or 1)

    def one(self, image):
        (y1, x1), (y2, x2) = (f(np.argwhere(image[..., 0] > 200), 0) for f in (np.min, np.max))
        boxes = np.array([[x1, y1, x2 + 1, y2 + 1]] * 2, np.float32)
        return Detections(boxes, np.array([0.9, 0.3], np.float32), np.array([1, 2]), self.classes, self.category_ids)


def picture(left=10):
    image = np.zeros((40, 60, 3), np.uint8)
    image[8:24, left : left + 20] = 255
    return image


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(picture(5 + i)).save(folder / f"{i}.png")
    (folder / "bad.jpg").write_bytes(b"no image")
    film = tmp_path / "film.mp4"
    with VideoWriter(film, Fraction(10)) as writer:
        for i in range(4):
            writer.write(picture(2 * i))
    return [folder, film]


def go(tmp_path, inputs, **options):
    return predict(Squares, inputs, PredictOptions(tmp_path / "out", **options), move_earlier_run)


def test_images_and_videos_to_every_result(tmp_path, inputs):
    video = tmp_path / "drawn.mp4"
    summary = go(tmp_path, inputs[1:], format="jsonl", crops=True, video=video, limits=Limits(max_frames=3))
    assert (summary.images, summary.detections, summary.unreadable) == (3, 6, [])
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [row["frame"] for row in rows] == [0, 1, 2]
    assert not list(out.glob("*.jpg"))  # frames go to the video
    frames = [image for image, _, _ in read_frames(str(video))]
    assert len(frames) == 3
    assert not list(tmp_path.glob("*.part"))
    crops = sorted(path.relative_to(out / "crops").as_posix() for path in out.glob("crops/*/*"))
    assert crops == [f"big_square/film-00000{i}-1.jpg" for i in range(3)]


def test_what_cannot_be_read_is_counted_and_the_rest_is_done(tmp_path, inputs):
    summary = go(tmp_path, inputs[:1], format="yolo", batch_size=2)
    assert (summary.images, len(summary.unreadable)) == (3, 1)
    out = tmp_path / "out"
    assert sorted(p.name for p in out.glob("*.jpg")) == ["0.jpg", "1.jpg", "2.jpg"]
    assert sorted(p.name for p in out.glob("labels/*")) == ["0.txt", "1.txt", "2.txt"]
    # again: what the first run made is moved, and nothing else
    (out / "mine.txt").write_text("mine")
    assert go(tmp_path, inputs[:1], format="csv", images=False).images == 3
    assert sorted(p.name for p in out.iterdir()) == ["detections.csv", "earlier-1", "mine.txt", "predict.json"]
    assert {"labels", "classes.txt", "0.jpg"} <= {p.name for p in (out / "earlier-1").iterdir()}
    assert made_before(out) == ["detections.csv", "predict.json"]


def test_files_of_the_user_are_not_replaced(tmp_path, inputs):
    (tmp_path / "out" / "labels").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="labels already exists"):
        go(tmp_path, inputs, format="yolo")
    with pytest.raises(FileExistsError, match=r"film.mp4 already exists"):
        go(tmp_path, inputs, video=inputs[1])


def test_a_video_without_frames_is_said(tmp_path, inputs, caplog):
    (tmp_path / "in2").mkdir()
    (tmp_path / "in2" / "bad.jpg").write_bytes(b"no")
    go(tmp_path, [tmp_path / "in2"], video=tmp_path / "v.mp4")
    assert "v.mp4 is not written" in caplog.text
    assert not (tmp_path / "v.mp4").exists()


def test_crops_of_degenerate_boxes_are_left_out(tmp_path):
    boxes = np.array([[5, 5, 5, 9], [-3, -2, 8.2, 7.1]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.8], np.float32), np.array([1, 2]), ("a", "b"), (1, 2))
    write_crops(picture(), found, tmp_path / "crops", "x")
    (file,) = tmp_path.glob("crops/*/*")
    assert file.relative_to(tmp_path).as_posix() == "crops/b/x-2.jpg"
    assert Image.open(file).size == (9, 8)
