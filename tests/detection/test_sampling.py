import torch

from detection.sampling import RandomSampler

LABELS = torch.tensor([1] * 10 + [0] * 50 + [-1] * 40, dtype=torch.int8)


def test_counts_and_kinds():
    foreground, background = RandomSampler(32, 0.25)(LABELS)
    assert (len(foreground), len(background)) == (8, 24)
    assert (LABELS[foreground] == 1).all()
    assert (LABELS[background] == 0).all()
    assert len(set(foreground.tolist() + background.tolist())) == 32


def test_background_fills_and_little_is_little():
    foreground, background = RandomSampler(40, 0.5)(LABELS)
    assert (len(foreground), len(background)) == (10, 30)
    foreground, background = RandomSampler(256, 0.5)(LABELS)
    assert (len(foreground), len(background)) == (10, 50)
    foreground, background = RandomSampler(8, 0.5)(LABELS[:0])
    assert len(foreground) == len(background) == 0


def test_a_generator_decides():
    def draw(seed):
        return torch.cat(RandomSampler(20, 0.25)(LABELS, torch.Generator().manual_seed(seed))).tolist()

    assert draw(1) == draw(1) != draw(2)


def test_every_candidate_is_as_likely():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(LABELS))
    for _ in range(2000):
        for index in RandomSampler(20, 0.25)(LABELS, generator):
            counts[index] += 1
    # 5 of 10 and 15 of 50; four standard deviations
    assert ((counts[:10] / 2000 - 0.5).abs() < 4 * (0.25 / 2000) ** 0.5).all()
    assert ((counts[10:60] / 2000 - 0.3).abs() < 4 * (0.21 / 2000) ** 0.5).all()
    assert (counts[60:] == 0).all()
