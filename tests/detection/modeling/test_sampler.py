import torch

from detection.modeling.sampler import RandomSampler, sample

LABELS = torch.tensor([1] * 10 + [0] * 50 + [-1] * 40, dtype=torch.int8)


def draw(quota, fraction, label=LABELS, generator=None):
    state = None if generator is None else generator.get_state()
    generator = generator or torch.Generator().manual_seed(0)
    state = generator.get_state() if state is None else state
    padded_index, padded_kind = sample(RandomSampler(quota, fraction), label, generator, padded=True)
    generator.set_state(state)
    index, kind = sample(RandomSampler(quota, fraction), label, generator, padded=False)
    # the padded form has the same samples, followed by padding
    assert len(padded_index) == min(quota, len(label))
    assert torch.equal(padded_index[: len(index)], index)
    assert torch.equal(padded_kind[: len(index)], kind)
    assert (padded_kind[len(index) :] == -1).all()
    assert (label[index] == kind).all()
    assert kind.tolist() == sorted(kind.tolist(), reverse=True)  # the foreground first
    assert len(set(index.tolist())) == len(index)
    return index, [(kind == 1).sum().item(), (kind == 0).sum().item(), len(kind)]


def test_counts_and_kinds():
    assert draw(32, 0.25)[1] == [8, 24, 32]


def test_background_fills_the_quota_and_few_candidates_are_all_sampled():
    assert draw(40, 0.5)[1] == [10, 30, 40]
    assert draw(256, 0.5)[1] == [10, 50, 60]
    assert draw(8, 0.5, LABELS[:0])[1] == [0, 0, 0]
    assert draw(8, 0.5, LABELS[:4])[1] == [4, 0, 4]
    assert draw(8, 0.5, LABELS[20:30])[1] == [0, 8, 8]
    assert draw(8, 0.5, LABELS[-9:])[1] == [0, 0, 0]


def test_generator_determines_the_samples():
    def indices(seed):
        return draw(20, 0.25, generator=torch.Generator().manual_seed(seed))[0].tolist()

    assert indices(1) == indices(1) != indices(2)


def test_candidates_are_sampled_uniformly():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(LABELS))
    for _ in range(2000):
        counts[sample(RandomSampler(20, 0.25), LABELS, generator, padded=False)[0]] += 1
    # 5 of 10 and 15 of 50; four standard deviations
    assert ((counts[:10] / 2000 - 0.5).abs() < 4 * (0.25 / 2000) ** 0.5).all()
    assert ((counts[10:60] / 2000 - 0.3).abs() < 4 * (0.21 / 2000) ** 0.5).all()
    assert (counts[60:] == 0).all()
