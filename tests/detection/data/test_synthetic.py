import numpy as np
import pytest
from PIL import Image, ImageDraw

from detection.data.synthetic import CLASSES, OUTLINES, SIZE_RANGE, draw_crop, draw_image, make_scene, shapes_records


@pytest.fixture(scope="module")
def records():
    return shapes_records(400, seed=0)


def test_statistics(records):
    assert len(CLASSES) >= 6
    longer = (records.boxes[:, 2:] - records.boxes[:, :2]).max(axis=1)
    assert SIZE_RANGE == (16, 200)
    assert longer.min() >= 16 - 1e-6
    assert longer.max() <= 200 + 1e-6
    # log-uniform: about a quarter each, fewer large ones since they fit less often
    quarters = np.histogram(np.log(longer), bins=np.linspace(np.log(16), np.log(200), 5))[0] / len(longer)
    assert quarters.min() > 0.12
    assert (np.diff(records.offsets) == 0).any()
    assert (records.boxes >= -1e-6).all()
    image_of = np.repeat(np.arange(len(records)), np.diff(records.offsets))
    assert (records.boxes[:, 2] <= records.sizes[image_of, 1] + 1e-6).all()
    counts = np.bincount(records.labels, minlength=len(CLASSES) + 1)[1:]
    assert counts.min() > 0.7 * counts.mean()


def test_images_depend_on_the_seed(records):
    assert np.array_equal(draw_image(records.files[3]), draw_image(records.files[3]))
    assert not np.array_equal(shapes_records(5, 1).boxes[:3], records.boxes[:3])
    assert shapes_records(5, 0).boxes.tolist() == records.boxes[: len(shapes_records(5, 0).boxes)].tolist()


def test_boxes_are_tight():
    """Compare the boxes of outlines with the pixels that Pillow fills."""
    for index in range(8):
        for shape in make_scene(3, index).shapes:
            canvas = Image.new("L", (400 * 4, 400 * 4))
            ImageDraw.Draw(canvas).polygon((shape.outline * 4).ravel().tolist(), fill=1)
            ys, xs = np.nonzero(np.asarray(canvas))
            rendered = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) / 4
            assert np.abs(rendered - shape.box).max() <= 0.5


def test_outlines_are_centred_and_distinct():
    assert set(OUTLINES) == set(CLASSES)
    areas = {}
    for name, outline in OUTLINES.items():
        assert np.abs(outline).max() <= 1.5
        x, y = outline.T
        areas[name] = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert len({round(v, 2) for v in areas.values()}) == len(CLASSES)


def histogram(image, box):
    x1, y1, x2, y2 = np.clip(np.round(box).astype(int), 0, None)
    pixels = image[y1:y2, x1:x2].reshape(-1, 3) // 64
    counts = np.bincount(pixels[:, 0] * 16 + pixels[:, 1] * 4 + pixels[:, 2], minlength=64)
    return np.sqrt(counts / counts.sum())


def test_colours_do_not_reveal_the_class():
    """Classifiers on the colour histograms of the ground truth boxes are at most 10 percentage points above chance.

    The histogram bins are not sorted: sorted bins measure how much of a box one colour fills, which depends on the outline.
    """
    records = shapes_records(400, seed=5)
    features, labels = [], []
    for i in range(len(records)):
        image = draw_image(records.files[i])
        objects = records.objects(i)
        features += [histogram(image, box) for box in records.boxes[objects]]
        labels += (records.labels[objects] - 1).tolist()
    x, y = np.array(features), np.array(labels)
    half = len(x) // 2
    accuracies = [
        ridge(x[:half], y[:half], x[half:], y[half:]),
        nearest_neighbours(x[:half], y[:half], x[half:], y[half:]),
    ]
    assert max(accuracies) <= 1 / len(CLASSES) + 0.10, accuracies


def ridge(x, y, test_x, test_y):
    x, test_x = (np.column_stack((v, np.ones(len(v)))) for v in (x, test_x))
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ np.eye(len(CLASSES))[y])
    return float(((test_x @ weights).argmax(1) == test_y).mean())


def nearest_neighbours(x, y, test_x, test_y, k=15):
    nearest = np.argsort(-(test_x @ x.T), axis=1)[:, :k]
    votes = np.stack([(y[nearest] == c).sum(1) for c in range(len(CLASSES))], axis=1)
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
