import numpy as np
import pytest
from tiny import pixels, records

from detection.config import DataConfig
from detection.data.loader import TrainSet
from detection.training.planning import facts as module
from detection.training.planning.facts import data_facts, this_machine


def test_numbers_of_a_set():
    facts = data_facts(TrainSet(records(4), pixels, DataConfig(), 0))
    assert (facts.images, facts.empty, facts.objects, facts.classes) == (3, 1, 6, 2)
    assert (facts.short_side, facts.long_side) == (48, 64)
    assert facts.relative_sides == pytest.approx(np.full(6, np.sqrt(26 * 36) / 48), rel=1e-6)
    assert facts.rare == ("cat", "dog")


def test_this_machine(monkeypatch):
    machine = this_machine()
    assert machine.device in ("cpu", "cuda", "mps")
    assert machine.cores >= 1
    monkeypatch.setattr(module, "default_device", lambda: module.torch.device("cpu"))
    assert this_machine().name.startswith("a CPU with")
    assert this_machine().memory == 0
