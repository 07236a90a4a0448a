import pytest
import torch
from torch import nn

from detection.training.accumulation import MicroBatch, frozen_statistics, region_weights


def micro_batches(*counts):
    return [MicroBatch(None, 0, torch.tensor(float(count))) for count in counts]


def test_weights_of_the_example():
    assert region_weights(micro_batches(48, 16)) == [1.5, 0.5]


@pytest.mark.parametrize("counts", [(5,), (7, 7), (512, 512, 512)])
def test_equal_counts_need_no_weights(counts):
    assert region_weights(micro_batches(*counts)) is None


def test_weighted_means_are_the_mean_over_all_regions():
    generator = torch.Generator().manual_seed(1)
    parts = [torch.rand(n, generator=generator, dtype=torch.float64) for n in (3, 11, 1, 5)]
    weights = region_weights(micro_batches(*map(len, parts)))
    accumulated = sum(w * part.mean() / len(parts) for w, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(accumulated, torch.cat(parts).mean())
    assert sum(weights) == pytest.approx(len(parts))


def test_a_micro_batch_without_regions_counts_nothing():
    assert region_weights(micro_batches(0, 10)) == [0, 2]


def test_within_norms_use_the_batch_and_keep_their_statistics():
    norm, x = nn.BatchNorm2d(2), torch.randn(4, 2, 3, 3) + 5
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with frozen_statistics(nn.Sequential(norm)):
        out = norm(x)
    torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    norm(x)
    assert norm.num_batches_tracked == 1


def test_statistics_are_measured_again_after_an_error():
    norm = nn.BatchNorm2d(2)
    with pytest.raises(RuntimeError), frozen_statistics(norm):
        raise RuntimeError
    assert norm.track_running_stats


def test_norms_in_evaluation_use_their_statistics():
    norm, x = nn.BatchNorm2d(2).eval(), torch.randn(4, 2, 3, 3) + 5
    with frozen_statistics(norm):
        torch.testing.assert_close(norm(x), x, atol=1e-4, rtol=1e-4)  # mean 0 and variance 1
