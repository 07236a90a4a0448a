from itertools import islice

import numpy as np
import pytest
import torch

from detection.config import DataConfig
from detection.data.annotations import DataError
from detection.data.image import UnreadableImage
from detection.data.loader import EvalSet, TrainOrder, TrainSet, eval_loader, train_loader
from detection.data.synthetic import read_picture, shapes_records

CONFIG = DataConfig(format="shapes", train="12", val="6", short_side=(64, 96), max_side=200, workers=0)
WIDE = np.array([True, False] * 5 + [True] * 3)


def order(**options):
    return TrainOrder(np.arange(13) * 10, WIDE, 4, **{"seed": 3} | options)


def test_groups_are_all_wide_or_all_tall_and_epochs_are_whole():
    seen = []
    for batch in islice(order(), 13):
        assert len({bool(WIDE[i // 10]) for i, _ in batch}) == 1
        seen += batch
    positions = [p for _, p in seen]
    assert len(set(positions)) == len(positions)
    epoch = [i for i, p in sorted(seen, key=lambda key: key[1]) if p < 13]
    assert len(epoch) == len(set(epoch))


def test_a_resumed_order_goes_on_where_it_stopped():
    whole = list(islice(order(parts=2), 20))
    assert list(islice(order(parts=2, start=7), 6)) == whole[14:20]


def test_ranks_and_parts_share_a_step():
    single = list(islice(order(), 5))
    ranks = [list(islice(order(rank=r, world=2), 5)) for r in range(2)]
    for step in range(5):
        assert ranks[0][step] + ranks[1][step] == single[step]
    parts = list(islice(order(parts=2), 10))
    assert [parts[2 * s] + parts[2 * s + 1] for s in range(5)] == single


def test_indivisible_batches_are_refused():
    with pytest.raises(ValueError, match="must be a multiple of processes x accumulate = 3 x 1"):
        order(world=3)


def test_a_sample_depends_on_seed_and_position_alone():
    dataset = TrainSet(shapes_records(12, 0), read_picture, CONFIG, seed=1)
    first, again = dataset[3, 17], dataset[3, 17]
    assert torch.equal(first[0], again[0])
    different = [dataset[3, p] for p in range(12)]
    assert len({tuple(s[0].shape) for s in different}) > 1
    for image, target, index, size, _ in different:
        assert image.dtype == torch.uint8
        assert index == 3
        assert size == tuple(dataset.records.sizes[3])
        assert target["boxes"].dtype == torch.float32
        assert (target["boxes"][:, 2] <= image.shape[-1]).all()


def test_workers_give_the_same_batches():
    def batches(workers):
        config = DataConfig(**{**CONFIG.__dict__, "workers": workers})
        dataset = TrainSet(shapes_records(12, 0), read_picture, config, seed=1)
        loader = train_loader(dataset, 2, parts=1, rank=0, world=1, seed=1, start=2, pin=False)
        return list(islice(loader, 4))

    for a, b in zip(batches(0), batches(2), strict=True):
        assert a.index == b.index
        assert all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))


def test_empty_images_by_setting():
    records = shapes_records(60, 0)
    empty = int((np.diff(records.offsets) == 0).sum())
    assert empty > 0
    assert len(TrainSet(records, read_picture, CONFIG, 0).usable()) == 60 - empty
    keep = DataConfig(**{**CONFIG.__dict__, "keep_empty": True})
    assert len(TrainSet(records, read_picture, keep, 0).usable()) == 60


def test_evaluation_sees_each_image_once_over_all_ranks():
    dataset = EvalSet(shapes_records(7, 0), read_picture, CONFIG)
    seen = [batch.index for rank in range(2) for batch in eval_loader(dataset, rank=rank, world=2)]
    assert sorted(i for index in seen for i in index) == list(range(7))


def test_evaluation_uses_the_last_size():
    image, _, _, size, _ = EvalSet(shapes_records(3, 0), read_picture, CONFIG)[0]
    assert min(image.shape[-2:]) == 96
    assert min(size) > 96


def broken(names):
    def read(name):
        if name in names:
            raise UnreadableImage(f"{name} cannot be read as an image: truncated")
        return read_picture(name)

    return read


def test_a_damaged_picture_is_replaced_in_training_and_named(caplog):
    records = shapes_records(6, 0)
    dataset = TrainSet(records, broken({records.files[2]}), CONFIG, 0)
    assert dataset[2, 0][2] == 3
    assert f"{records.files[2]} cannot be read" in caplog.text
    with pytest.raises(DataError, match="none of its 6 pictures"):
        _ = TrainSet(records, broken(set(records.files)), CONFIG, 0)[0, 0]


def test_a_damaged_picture_has_no_detections(caplog):
    records = shapes_records(3, 0)
    dataset = EvalSet(records, broken({records.files[1]}), CONFIG)
    assert [batch.readable for batch in eval_loader(dataset)] == [[True], [False], [True]]
    assert "counts as without detections" in caplog.text
