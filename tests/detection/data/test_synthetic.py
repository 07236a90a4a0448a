import numpy as np
import pytest
from PIL import Image, ImageDraw

from detection.data.synthetic import CLASSES, OUTLINES, SIZE_RANGE, draw_crop, make_scene, read_picture, shapes_records


@pytest.fixture(scope="module")
def records():
    return shapes_records(400, seed=0)


def test_the_set_is_as_promised(records):
    assert len(CLASSES) >= 6
    longer = (records.boxes[:, 2:] - records.boxes[:, :2]).max(axis=1)
    assert SIZE_RANGE == (16, 200)
    assert longer.min() >= 16 - 1e-6
    assert longer.max() <= 200 + 1e-6
    # log-uniform: a quarter of the octaves each, as far as large ones find room
    quarters = np.histogram(np.log(longer), bins=np.linspace(np.log(16), np.log(200), 5))[0] / len(longer)
    assert quarters.min() > 0.12
    assert (np.diff(records.offsets) == 0).any()
    assert (records.boxes >= -1e-6).all()
    image_of = np.repeat(np.arange(len(records)), np.diff(records.offsets))
    assert (records.boxes[:, 2] <= records.sizes[image_of, 1] + 1e-6).all()
    counts = np.bincount(records.labels, minlength=len(CLASSES) + 1)[1:]
    assert counts.min() > 0.7 * counts.mean()


def test_the_seed_decides(records):
    assert np.array_equal(read_picture(records.files[3]), read_picture(records.files[3]))
    assert not np.array_equal(shapes_records(5, 1).boxes[:3], records.boxes[:3])
    assert shapes_records(5, 0).boxes.tolist() == records.boxes[: len(shapes_records(5, 0).boxes)].tolist()


def test_boxes_are_tight():
    """The box of an outline against the pixels that Pillow fills for it."""
    for index in range(8):
        for shape in make_scene(3, index).shapes:
            canvas = Image.new("L", (400 * 4, 400 * 4))
            ImageDraw.Draw(canvas).polygon((shape.outline * 4).ravel().tolist(), fill=1)
            ys, xs = np.nonzero(np.asarray(canvas))
            drawn = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 4
            assert np.abs(drawn - shape.box).max() <= 0.5


def test_outlines_are_centred_and_differ():
    assert set(OUTLINES) == set(CLASSES)
    filled = {}
    for name, outline in OUTLINES.items():
        assert np.abs(outline).max() <= 1.5
        x, y = outline.T
        filled[name] = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert len({round(v, 2) for v in filled.values()}) == len(CLASSES)


def histogram(picture, box):
    x1, y1, x2, y2 = np.clip(np.round(box).astype(int), 0, None)
    pixels = picture[y1:y2, x1:x2].reshape(-1, 3) // 64
    counts = np.bincount(pixels[:, 0] * 16 + pixels[:, 1] * 4 + pixels[:, 2], minlength=64)
    return np.sqrt(counts / counts.sum())


def test_colours_do_not_tell_the_class():
    """A classifier on the colour histograms of the true boxes gets no more than chance and a tenth.

    Histograms with their bins sorted, which tell how much of a box one colour fills and not which, are another matter: a
    square fills more of its box than a star, and that is outline.
    """
    records = shapes_records(700, seed=5)
    features, labels = [], []
    for i in range(len(records)):
        picture = read_picture(records.files[i])
        where = records.objects(i)
        features += [histogram(picture, box) for box in records.boxes[where]]
        labels += (records.labels[where] - 1).tolist()
    x, y = np.array(features), np.array(labels)
    half = len(x) // 2
    accuracies = [ridge(x[:half], y[:half], x[half:], y[half:]), neighbours(x[:half], y[:half], x[half:], y[half:])]
    assert max(accuracies) <= 1 / len(CLASSES) + 0.10, accuracies


def ridge(x, y, test_x, test_y):
    x, test_x = (np.column_stack((v, np.ones(len(v)))) for v in (x, test_x))
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ np.eye(len(CLASSES))[y])
    return float(((test_x @ weights).argmax(1) == test_y).mean())


def neighbours(x, y, test_x, test_y, k=15):
    near = np.argsort(-(test_x @ x.T), axis=1)[:, :k]
    votes = np.stack([(y[near] == c).sum(1) for c in range(len(CLASSES))], axis=1)
    return float((votes.argmax(1) == test_y).mean())


def test_crops():
    rng = np.random.default_rng(0)
    for _ in range(20):
        crop, box = draw_crop(rng, 2, 48)
        assert crop.shape == (48, 48, 3)
        assert crop.dtype == np.uint8
        assert 0.3 * 48 < (box[2:] - box[:2]).max() < 0.95 * 48
        assert (box >= 0).all()
        assert (box <= 48).all()
    assert draw_crop(rng, 0, 48)[0].std() > 0
