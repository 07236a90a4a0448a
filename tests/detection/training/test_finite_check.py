import math

import pytest
import torch

from detection.training import finite_check
from detection.training.finite_check import FiniteCheck, non_finite_names


def test_the_loss_of_one_process_is_its_own():
    assert FiniteCheck(torch.tensor(1.5)).loss() == 1.5


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_non_finite_losses_stay_so(value):
    assert not math.isfinite(FiniteCheck(torch.tensor(value)).loss())


def test_a_loss_in_half_precision_is_read_as_float():
    assert FiniteCheck(torch.tensor(2.0, dtype=torch.bfloat16)).loss() == 2.0


@pytest.mark.parametrize(("other", "wanted"), [(4.0, 3.0), (math.nan, math.nan), (math.inf, math.inf)])
def test_the_mean_over_processes_is_non_finite_where_one_loss_is(monkeypatch, other, wanted):
    """Of two processes the other one adds its half to the sum."""
    monkeypatch.setattr(finite_check, "is_distributed", lambda: True)
    monkeypatch.setattr(finite_check.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(finite_check.dist, "all_reduce", lambda x: x.add_(other / 2))
    loss = torch.tensor(2.0)
    assert FiniteCheck(loss).loss() == pytest.approx(wanted, nan_ok=True)
    assert float(loss) == 2.0  # the loss itself is not written to


def test_non_finite_losses_are_named_with_their_values():
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(math.nan), "c": torch.tensor(-math.inf, requires_grad=True)}
    assert non_finite_names(losses) == "b=nan, c=-inf"


def test_another_process_is_blamed_where_all_is_finite_here():
    assert "another" in non_finite_names({"a": torch.tensor(1.0)})
