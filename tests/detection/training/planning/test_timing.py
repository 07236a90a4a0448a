import pytest
import torch

from detection.config import load_config
from detection.training.planning.timing import in_words, seconds_per_step

pytestmark = pytest.mark.usefixtures("thin_networks")


def test_a_step_takes_time_and_changes_no_random_numbers():
    keys = ["model.anchors.sizes=[32]", "data.short_side=[64]", "data.max_side=96", "model.roi.batch_per_image=8"]
    config = load_config("faster_rcnn_r18_own_data.yaml", keys)
    before = torch.get_rng_state()
    assert 0 < seconds_per_step(config, 2, (48, 64)) < 60
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(40, "40 seconds"), (120, "2 minutes"), (1500, "25 minutes"), (9000, "2.5 hours"), (200000, "2.3 days")],
)
def test_durations(seconds, words):
    assert in_words(seconds) == words
