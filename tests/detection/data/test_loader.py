import pickle
import signal
from dataclasses import replace
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from detection.config import DataConfig
from detection.data.annotations import Annotations, DataError
from detection.data.image import UnreadableImage, read_image
from detection.data.loader import EvalSet, TrainBatchSampler, TrainSet, eval_loader, init_worker, train_loader
from detection.data.synthetic import draw_image, shapes_records

CONFIG = DataConfig(format="shapes", train="12", val="6", short_side=(64, 96), max_side=200, workers=0)
WIDE = np.array([True, False] * 5 + [True] * 3)


def sampler(**options):
    return TrainBatchSampler(np.arange(13) * 10, WIDE, 4, **{"seed": 3} | options)


def test_batches_group_by_aspect_and_epochs_are_complete():
    keys = []
    for batch in islice(sampler(), 13):
        assert len({bool(WIDE[i // 10]) for i, _ in batch}) == 1
        keys += batch
    positions = [p for _, p in keys]
    assert len(set(positions)) == len(positions)
    epoch = [i for i, p in sorted(keys, key=lambda key: key[1]) if p < 13]
    assert len(epoch) == len(set(epoch))


def test_resumed_sampler_continues():
    full = list(islice(sampler(micro_batches=2), 20))
    assert list(islice(sampler(micro_batches=2, start=7), 6)) == full[14:20]


def test_ranks_and_micro_batches_split_a_step():
    single = list(islice(sampler(), 5))
    ranks = [list(islice(sampler(rank=r, world=2), 5)) for r in range(2)]
    for step in range(5):
        assert ranks[0][step] + ranks[1][step] == single[step]
    micro_batches = list(islice(sampler(micro_batches=2), 10))
    assert [micro_batches[2 * s] + micro_batches[2 * s + 1] for s in range(5)] == single


def test_indivisible_batch_size_raises():
    with pytest.raises(ValueError, match="must be a multiple of processes x accumulate = 3 x 1"):
        sampler(world=3)


def test_samples_depend_on_seed_and_position_only():
    dataset = TrainSet(shapes_records(12, 0), draw_image, CONFIG, seed=1)
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
        dataset = TrainSet(shapes_records(12, 0), draw_image, config, seed=1)
        loader = train_loader(dataset, 2, micro_batches=1, rank=0, world=1, seed=1, start=2, pin=False)
        return list(islice(loader, 4))

    for a, b in zip(batches(0), batches(2), strict=True):
        assert a.index == b.index
        assert all(torch.equal(x, y) for x, y in zip(a.images, b.images, strict=True))


def sent_to_workers(loader):
    """What a spawned worker gets of a loader, as it arrives there."""
    parts = (loader.dataset, loader.collate_fn, loader.worker_init_fn, loader.multiprocessing_context)
    return pickle.loads(ForkingPickler.dumps(parts))[0]


def test_what_travels_to_a_spawned_worker_is_picklable():
    config = DataConfig(
        **{
            **CONFIG.__dict__,
            "augment": ({"albumentations.ColorJitter": {}}, {"torchvision.ColorJitter": {"hue": 0.1}}),
        }
    )
    train, val = (
        TrainSet(shapes_records(6, 0), draw_image, config, 1),
        EvalSet(shapes_records(2, 0), read_image, config),
    )
    loader = train_loader(train, 2, micro_batches=1, rank=0, world=1, seed=1, start=0, pin=False)
    image, targets, *rest = sent_to_workers(loader)[3, 7]
    wanted, objects, *others = train[3, 7]
    assert torch.equal(image, wanted)
    assert torch.equal(targets["boxes"], objects["boxes"])
    assert rest == others
    assert list(sent_to_workers(eval_loader(val)).records.files) == list(val.records.files)


@pytest.mark.slow  # a spawned worker imports everything again
def test_workers_can_be_spawned():
    config = DataConfig(
        **{
            **CONFIG.__dict__,
            "workers": 1,
            "augment": ({"albumentations.ColorJitter": {}}, {"torchvision.ColorJitter": {"hue": 0.1}}),
        }
    )
    train = TrainSet(shapes_records(6, 0), draw_image, config, seed=1)
    loaders = [
        train_loader(train, 2, micro_batches=1, rank=0, world=1, seed=1, start=0, pin=False),
        eval_loader(EvalSet(shapes_records(2, 0), draw_image, config)),
    ]
    for loader in loaders:
        loader.multiprocessing_context = "spawn"
        images = [batch.images for batch in islice(loader, 2)]
        assert [image.dtype for batch in images for image in batch] == [torch.uint8] * (
            4 if loader is loaders[0] else 2
        )


def test_a_worker_starts_where_signals_have_no_alarm(monkeypatch):
    """As on Windows."""
    handlers = {}
    monkeypatch.delattr("signal.alarm")
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    init_worker(0)
    assert handlers == {signal.SIGINT: signal.SIG_IGN}


def test_keep_empty():
    records = shapes_records(60, 0)
    empty = int((np.diff(records.offsets) == 0).sum())
    assert empty > 0
    assert len(TrainSet(records, draw_image, CONFIG, 0).usable()) == 60 - empty
    keep = DataConfig(**{**CONFIG.__dict__, "keep_empty": True})
    assert len(TrainSet(records, draw_image, keep, 0).usable()) == 60


def test_eval_loader_covers_each_image_once_over_all_ranks():
    dataset = EvalSet(shapes_records(7, 0), draw_image, CONFIG)
    keys = [batch.index for rank in range(2) for batch in eval_loader(dataset, rank=rank, world=2)]
    assert sorted(i for index in keys for i in index) == list(range(7))


def test_evaluation_uses_the_last_short_side():
    image, _, _, size, _ = EvalSet(shapes_records(3, 0), draw_image, CONFIG)[0]
    assert min(image.shape[-2:]) == 96
    assert min(size) > 96


def unreadable(names):
    def read(name):
        if name in names:
            raise UnreadableImage(f"{name} cannot be read as an image: truncated")
        return draw_image(name)

    return read


def test_corrupt_training_image_is_replaced_and_reported(caplog):
    records = shapes_records(6, 0)
    dataset = TrainSet(records, unreadable({records.files[2]}), CONFIG, 0)
    assert dataset[2, 0][2] == 3
    assert f"{records.files[2]} cannot be read" in caplog.text
    with pytest.raises(DataError, match="none of its 6 images"):
        _ = TrainSet(records, unreadable(set(records.files)), CONFIG, 0)[0, 0]


def test_corrupt_evaluation_image_has_no_detections(caplog):
    records = shapes_records(3, 0)
    dataset = EvalSet(records, unreadable({records.files[1]}), CONFIG)
    assert [batch.readable for batch in eval_loader(dataset)] == [[True], [False], [True]]
    assert "evaluated with no detections" in caplog.text


def three_images(**options):
    """Three images of 60 x 40, the middle one without objects; their files are numbers."""
    boxes = [[[1, 1, 9, 9]], [], [[5, 5, 50, 35]]]
    records = Annotations.from_arrays(["0", "1", "2"], boxes, [[1], [], [1]], ["cat"], sizes=[(40, 60)] * 3)
    return TrainSet(records, options.pop("read"), replace(CONFIG, flip=0.0, **options), seed=0)


@pytest.mark.parametrize(("keep_empty", "substitute"), [(False, 2), (True, 1)])
def test_an_unreadable_image_is_replaced_by_one_to_train_on(keep_empty, substitute):
    def read(file):
        if file == "0":
            raise UnreadableImage(file)
        return np.zeros((40, 60, 3), dtype=np.uint8)

    _, target, index, _, _ = three_images(read=read, keep_empty=keep_empty)[0, 0]
    assert index == substitute
    assert len(target["boxes"]) == (0 if keep_empty else 1)


def test_boxes_are_clipped_to_the_image_that_was_read():
    dataset = three_images(read=lambda file: np.zeros((40, 30, 3), dtype=np.uint8), short_side=(30,))
    assert dataset[2, 0][1]["boxes"].tolist() == [[5, 5, 30, 35]]
