import numpy as np
import pytest

from detection.analysis.drift import brightness, histogram_shares, shared, shares, total_variation


def test_shares_and_their_distance():
    a, b = shares(np.array([0, 0, 1, 1]), 3), shares(np.array([0, 2]), 3)
    assert a.tolist() == [0.5, 0.5, 0]
    assert total_variation(a, b) == 0.5
    assert total_variation(a, a) == 0
    assert shares(np.zeros(0, dtype=np.int64), 2).tolist() == [0, 0]


def test_histograms_have_all_values():
    assert histogram_shares(np.array([-1.0, 0, 5, 10, 99]), (0, 5, 10)).tolist() == [0.4, 0.6]
    assert histogram_shares(np.zeros(0), (0, 5, 10)).tolist() == [0, 0]


def test_brightness():
    assert brightness(np.full((3, 5, 3), 255, np.uint8)) == pytest.approx(1)
    red = np.zeros((200, 300, 3), np.uint8)
    red[..., 0] = 255
    assert brightness(red) == pytest.approx(0.299)


def test_what_is_in_both():
    assert shared(["a", "b", "a"], ["c", "a", "b"]) == [(0, 1), (1, 2)]
    assert shared([], ["a"]) == []
