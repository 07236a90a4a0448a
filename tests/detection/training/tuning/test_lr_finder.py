import json

import numpy as np
import pytest
from PIL import Image
from runs import SMALL

from detection import load_config
from detection.training.tuning.lr_finder import find_lr, smooth, suggest

pytestmark = pytest.mark.usefixtures("thin_networks")


def test_smoothing_is_a_weighted_mean():
    """Weights .02 · .98^k, divided by their sum: of two losses 1 and 2 (1 · .98 + 2) / 1.98."""
    assert smooth([1.0, 2.0]) == pytest.approx([1.0, 2.98 / 1.98])
    assert smooth([3.0] * 50) == pytest.approx([3.0] * 50)


def test_the_suggestion_is_where_the_loss_falls_most_steeply():
    rates = np.geomspace(1e-6, 1, 61).tolist()
    losses = [2 - 1 / (1 + np.exp(-(np.log10(rate) + 3) * 4)) for rate in rates]  # a step down around 1e-3
    assert suggest(rates, losses) == pytest.approx(1e-3, rel=0.3)
    assert suggest(rates, list(range(61))) is None
    assert suggest(rates[:12], losses[:12]) is None
    assert suggest(rates, [float("nan")] * 61) is None


def test_a_test_leaves_two_files_and_changes_nothing_else(tmp_path):
    keys = [*SMALL, "solver.reference_batch=4", "solver.lr_scaling=linear", "solver.accumulate=2"]
    config = load_config("quickstart.yaml", keys)
    result = find_lr(config, tmp_path / "out", lowest=1e-5, highest=10.0, steps=30)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"lr_finder.json", "lr_finder.png"}
    assert result.rates[0] == pytest.approx(1e-5)
    assert len(result.losses) == len(result.rates) <= 30
    content = json.loads((tmp_path / "out" / "lr_finder.json").read_text())
    assert content["rates"] == result.rates
    if result.suggestion is not None:
        assert result.base_lr == pytest.approx(result.suggestion * 2)  # two images a step of four
    assert Image.open(tmp_path / "out" / "lr_finder.png").size[0] > 500
    again = find_lr(config, tmp_path / "again", lowest=1e-5, highest=10.0, steps=30)
    assert again == result
    with pytest.raises((OSError, ValueError), match=r"lr_finder\.json"):
        find_lr(config, tmp_path / "out", steps=3)
    with pytest.raises(ValueError, match="from low to high"):
        find_lr(config, tmp_path / "new", lowest=1.0, highest=0.1)
