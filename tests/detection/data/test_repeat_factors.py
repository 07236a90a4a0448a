import math
from collections import defaultdict
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from detection.config import DataConfig
from detection.data.annotations import Annotations
from detection.data.loader import TrainBatchSampler, TrainSet, train_loader
from detection.data.repeat_factors import describe, epoch_rows, repeat_factors
from detection.data.synthetic import draw_image, shapes_records

CONFIG = DataConfig(format="shapes", short_side=(64,), max_side=200, workers=0)


def by_the_definition(objects, images, threshold):
    """Gupta et al.'s three steps as loops over dictionaries, which is how detectron2 writes them."""
    frequency = defaultdict(int)
    for image in images:
        for label in {label for of, label in objects if of == image}:
            frequency[label] += 1
    of_class = {c: max(1.0, math.sqrt(threshold / (n / len(images)))) for c, n in frequency.items()}
    return [max([of_class[label] for of, label in objects if of == image], default=1.0) for image in images]


def test_a_case_worked_by_hand():
    """Four images; class 1 is on all, class 2 on one (twice), class 3 on two."""
    image_of, labels = np.array([0, 0, 0, 1, 2, 2, 3, 3]), np.array([1, 2, 2, 1, 1, 3, 1, 3])
    factors = repeat_factors(image_of, labels, np.arange(4), 0.5)
    np.testing.assert_allclose(factors, [math.sqrt(2), 1, 1, 1])
    np.testing.assert_allclose(repeat_factors(image_of, labels, np.arange(4), 1.0), [2, 1, math.sqrt(2), math.sqrt(2)])


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3, 1.0])
def test_factors_equal_the_definition(threshold):
    rng = np.random.default_rng(0)
    image_of = np.sort(rng.integers(0, 40, 150))
    labels = rng.choice(np.arange(1, 9), 150, p=np.array([40, 30, 20, 10, 5, 3, 2, 1]) / 111)
    images = np.flatnonzero(rng.random(40) < 0.8)  # some images are not trained on
    wanted = by_the_definition(list(zip(image_of.tolist(), labels.tolist(), strict=True)), images.tolist(), threshold)
    np.testing.assert_allclose(repeat_factors(image_of, labels, images, threshold), wanted)


def test_images_without_objects_come_once():
    none = np.zeros(0, dtype=np.int64)
    assert repeat_factors(none, none, np.arange(3), 0.5).tolist() == [1, 1, 1]


def test_an_epoch_rounds_at_random_to_the_factor_on_average():
    factors = np.array([1.0, 1.25, 2.0, 3.5])
    epochs = [np.bincount(epoch_rows(factors, np.random.default_rng((5, e))), minlength=4) for e in range(2000)]
    assert {tuple(counts[[0, 2]]) for counts in epochs} == {(1, 2)}
    assert {int(counts[1]) for counts in epochs} == {1, 2}
    assert {int(counts[3]) for counts in epochs} == {3, 4}
    np.testing.assert_allclose(np.mean(epochs, axis=0), factors, atol=0.04)


def rare(**options):
    """Twenty images of class 1, the last two of which have class 2 as well."""
    labels = [[1] for _ in range(18)] + [[1, 2]] * 2
    boxes = [[[1, 1, 9, 9 + k] for k in range(len(row))] for row in labels]
    files = [shapes_records(1, 0).files[0]] * 20
    records = Annotations.from_arrays(files, boxes, labels, ["often", "rare"], sizes=[(64, 64)] * 20)
    return TrainSet(records, draw_image, replace(CONFIG, **options), seed=0)


def test_rare_images_come_more_often_and_the_run_resumes_anywhere():
    dataset = rare(repeat_threshold=0.9)
    assert dataset.repeat_factors().tolist() == [1.0] * 18 + [3.0] * 2

    def indices(start, count):
        loader = train_loader(dataset, 4, micro_batches=1, rank=0, world=1, seed=7, start=start, pin=False)
        return list(islice(iter(loader.batch_sampler), count))

    whole = indices(0, 30)
    assert indices(13, 17) == whole[13:]
    counts = np.bincount([i for group in whole for i, _ in group], minlength=20)
    assert counts.sum() == 120
    assert counts[18:].sum() == pytest.approx(120 * 6 / 24, abs=2)
    positions = [position for group in whole for _, position in group]
    assert len(set(positions)) == len(positions)


def test_none_is_the_order_of_before():
    plain = TrainBatchSampler(np.arange(20), np.zeros(20, dtype=bool), 4, seed=7)
    assert rare().repeat_factors() is None
    wanted = np.random.default_rng((7, 0)).permutation(20)
    assert [i for group in islice(plain, 5) for i, _ in group] == wanted.tolist()


def test_the_log_says_what_repeats():
    assert "no class is that rare" in describe(np.ones(4))
    assert describe(np.array([1, 1, 1.5, 3])) == (
        "2 of 4 images come 1.50 to 3.00 times an epoch, which then has about 6 images"
    )
