import logging

import numpy as np
import pytest
from PIL import Image
from tiny import CLASSES

from detection.data.annotations import Annotations
from detection.training.run_files.run_dir import RUN_FILES, RunLog, move_earlier_run, write_comparisons


@pytest.fixture
def run_log():
    """A log whose loggers are afterwards as before."""
    loggers = [logging.getLogger(name) for name in ("detection", "backbone", "lightning.pytorch")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield RunLog()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers = handlers


def test_a_new_folder_is_made(tmp_path):
    move_earlier_run(tmp_path / "a" / "b", ["last.pth"])
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_earlier_files_are_kept_in_numbered_folders(tmp_path):
    for content in ("first", "second", "third"):
        move_earlier_run(tmp_path, ["last.pth", "pictures", "best.pth"])
        (tmp_path / "last.pth").write_text(content)
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "0.png").write_text(content)
    (tmp_path / "notes.txt").write_text("mine")
    move_earlier_run(tmp_path, ["last.pth", "pictures"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["earlier-1", "earlier-2", "earlier-3", "notes.txt"]
    for number, content in enumerate(("first", "second", "third"), 1):
        assert (tmp_path / f"earlier-{number}" / "last.pth").read_text() == content
        assert (tmp_path / f"earlier-{number}" / "pictures" / "0.png").read_text() == content


def test_nothing_is_moved_where_no_names_are_given(tmp_path):
    (tmp_path / "last.pth").write_text("mine")
    move_earlier_run(tmp_path, ())
    assert (tmp_path / "last.pth").read_text() == "mine"


def test_the_log_has_messages_from_before_its_file(tmp_path, run_log):
    logging.getLogger("detection.data").info("before")
    run_log.write_to(tmp_path / "log.txt")
    logging.getLogger("backbone").warning("after")
    logging.getLogger("elsewhere").error("not ours")
    run_log.close()
    logging.getLogger("detection").error("too late")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split()[-2:] for line in lines] == [["INFO", "before"], ["WARNING", "after"]]


def test_a_log_without_a_file_can_be_closed(run_log):
    run_log.close()
    assert not any(isinstance(h, logging.FileHandler) for h in logging.getLogger("detection").handlers)


def test_a_failed_run_ends_its_log_with_the_traceback(tmp_path):
    handlers = list(logging.getLogger("detection").handlers)

    def fail():
        with RunLog() as log:
            log.write_to(tmp_path / "log.txt")
            return 1 // 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()
    with pytest.raises(KeyError), RunLog():
        raise KeyError  # before there is a file
    assert logging.getLogger("detection").handlers == handlers
    logging.getLogger("detection").warning("of another run")
    assert "another run" not in (tmp_path / "log.txt").read_text()


def rows(*scores, image=1):
    return [{"image_id": image, "category_id": 1, "bbox": [10, 20, 30, 40], "score": score} for score in scores]


def drawn(folder, results, count=1, size=(100, 80)):
    """Pictures of grey images with the same box each."""
    annotations = Annotations.from_arrays(
        [str(i) for i in range(count)], [[[50, 50, 70, 70]]] * count, [[1]] * count, CLASSES, sizes=[size] * count
    )
    write_comparisons(annotations, lambda file: np.full((*size, 3), 128, dtype=np.uint8), results, folder / "pictures")
    return {path.name: np.asarray(Image.open(path)) for path in (folder / "pictures").iterdir()}


def test_the_truth_is_on_the_left_and_detections_on_the_right(tmp_path):
    found = drawn(tmp_path, rows(0.9))["00.png"]
    body = found[-100:]  # below the titles
    left, right = body[:, :80], body[:, -80:]
    grey = [128, 128, 128]
    assert (left[60, 50] != grey).any()  # an edge of the ground truth
    assert (left[40, 10] == grey).all()
    assert (right[40, 10] != grey).any()  # an edge of the detection
    assert (right[65, 70] == grey).all()


def test_low_scores_are_not_drawn(tmp_path):
    none = drawn(tmp_path, [])["00.png"]
    low = drawn(tmp_path, rows(0.4))["00.png"]
    other = drawn(tmp_path, rows(0.9, image=5))["00.png"]
    assert np.array_equal(none, low)
    assert np.array_equal(none, other)  # of another image


def test_a_sheet_has_eight_images_at_most(tmp_path):
    found = drawn(tmp_path, [], count=11, size=(20, 30))
    assert sorted(found) == [*(f"{i:02d}.png" for i in range(8)), "all.png"]
    height, width = found["00.png"].shape[:2]
    assert found["all.png"].shape[:2] == (4 * height + 3 * 8, 2 * width + 8)


def test_large_images_are_shrunk_with_their_boxes(tmp_path):
    found = drawn(tmp_path, [], size=(1280, 320))["00.png"]
    body = found[-640:]  # half as high
    assert body.shape == (640, 2 * 160 + 8, 3)
    assert (body[30, 25] != 128).any()  # (50, 60) of the image lies on the box's left edge


def test_files_of_other_ranks_and_damaged_checkpoints_are_a_runs(tmp_path):
    names = {"not_finite.pth", "not_finite-1.pth", "not_finite-12.pth", "last.pth.damaged"}
    for name in {*names, "notes.pth"}:
        (tmp_path / name).write_text("x")
    move_earlier_run(tmp_path, RUN_FILES)
    assert {path.name for path in (tmp_path / "earlier-1").iterdir()} == names
    assert {path.name for path in tmp_path.iterdir()} == {"earlier-1", "notes.pth"}


def test_loggers_have_their_levels_back_after_a_run(tmp_path, monkeypatch):
    # pytest-xdist cannot send it
    monkeypatch.setattr(logging.getLogger("detection"), "propagate", False)
    names = ("detection", "backbone", "lightning.pytorch")
    before = [logging.getLogger(name).level for name in names]
    with RunLog() as log:
        log.write_to(tmp_path / "log.txt")
        assert logging.getLogger("detection").level == logging.DEBUG
        logging.getLogger("detection").info("猫 \ud800")
    assert [logging.getLogger(name).level for name in names] == before
    assert "猫 \\ud800" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_an_image_that_cannot_be_read_is_left_out(tmp_path, caplog):
    def read(file):
        if file == "0":
            raise ValueError("truncated")
        return np.zeros((20, 30, 3), dtype=np.uint8)

    annotations = Annotations.from_arrays(["0", "1"], [[[1, 1, 9, 9]]] * 2, [[1]] * 2, CLASSES, sizes=[(20, 30)] * 2)
    write_comparisons(annotations, read, [], tmp_path / "pictures")
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["01.png", "all.png"]
    assert "0 is not drawn: ValueError: truncated" in caplog.text


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path, caplog):
    (tmp_path / "pictures").write_text("a file")
    annotations = Annotations.from_arrays(["0"], [[]], [[]], CLASSES, sizes=[(20, 30)])
    write_comparisons(annotations, lambda file: np.zeros((20, 30, 3), dtype=np.uint8), [], tmp_path / "pictures")
    assert "pictures is not drawn: FileExistsError" in caplog.text


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (1, 1)])
def test_extreme_sizes_are_drawn_at_one_pixel_at_least(tmp_path, size):
    found = drawn(tmp_path, rows(0.9), size=size)
    assert sorted(found) == ["00.png", "all.png"]
    assert found["00.png"].shape[1] == 2 * max(min(size[1], 640), 1) + 8
