import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from detection.classification.plots import Curve, Responses, draw_errors, draw_responses


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, in place of their files."""
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: found.append(self))
    return found


def lines(ax):
    """Label -> points of a plot."""
    return {line.get_label(): np.column_stack(line.get_data()).tolist() for line in ax.get_lines()}


def curve(network, seed, *errors, training=0.5):
    points = [(10.0 * i, error) for i, error in enumerate(errors, 1)]
    return Curve(network, seed, [(10.0, training)], points)


def test_lines_are_medians_over_the_seeds_in_percent(figures, tmp_path):
    curves = [curve("plain18", 0, 0.9, 0.5), curve("plain18", 1, 0.7, 0.1), curve("plain18", 2, 0.2)]
    draw_errors(curves, tmp_path / "a.png")
    (ax,) = figures[0].axes
    assert lines(ax)["plain18, test"] == [[10, pytest.approx(70)], [20, pytest.approx(30)]]
    assert lines(ax)["plain18, training"] == [[10, 50]]
    assert "3 seeds" in ax.get_title()
    low_high = ax.collections[-1].get_paths()[0].vertices  # the band of the test errors
    assert (low_high[:, 1].min(), low_high[:, 1].max()) == pytest.approx((10, 90))


def test_plain_networks_are_on_the_left(figures, tmp_path):
    curves = [curve("resnet18", 0, 0.4), curve("cifar_plain20", 0, 0.5), curve("resnet34", 0, 0.3)]
    draw_errors(curves, tmp_path / "a.png")
    plain, residual = figures[0].axes
    assert set(lines(plain)) == {"cifar_plain20, test", "cifar_plain20, training"}
    assert {label.split(",")[0] for label in lines(residual)} == {"resnet18", "resnet34"}
    assert "1 seed)" in plain.get_title()


def test_one_seed_has_no_band(figures, tmp_path):
    draw_errors([curve("resnet18", 0, 0.4, 0.3)], tmp_path / "a.png")
    (ax,) = figures[0].axes
    assert len(ax.collections) == 0


def test_responses_are_drawn_in_order_and_sorted(figures, tmp_path):
    draw_responses([Responses("resnet20", [0.2, 0.5, 0.1]), Responses("plain20", [1.0, 2.0])], tmp_path / "a.png")
    above, below = figures[0].axes
    assert lines(above)["resnet20"] == [[1, 0.2], [2, 0.5], [3, 0.1]]
    assert lines(below)["resnet20"] == [[1, 0.5], [2, 0.2], [3, 0.1]]
    styles = {line.get_label(): line.get_linestyle() for line in above.get_lines()}
    assert styles == {"resnet20": "-", "plain20": "--"}


def test_a_picture_is_written(tmp_path):
    draw_responses([Responses("resnet20", [0.2, 0.5])], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image.convert("L")).std() > 0


def test_plots_of_single_networks(tmp_path):
    one = Curve("resnet18", 0, [(1, 0.5), (2, 0.25)], [(2, 0.5)])
    draw_errors([one], tmp_path / "a.png")
    draw_responses([Responses("plain20", [1.0, 2.0])], tmp_path / "b.png")
    assert Image.open(tmp_path / "a.png").width < Image.open(tmp_path / "b.png").width
