import os

import pytest
import torch

from detection.utils.settings import run_settings, use_deterministic_algorithms


def state():
    cudnn = torch.backends.cudnn
    modes = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    return *modes, cudnn.deterministic, cudnn.benchmark, os.environ.get("CUBLAS_WORKSPACE_CONFIG")


def a_run():
    use_deterministic_algorithms()
    torch.backends.cudnn.benchmark = True
    os.environ["PL_GLOBAL_SEED"] = "5"
    assert state() == (True, False, False, True, ":4096:8")
    raise KeyError


def test_modes_and_variables_are_those_from_before_also_after_an_error(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    before = state()
    with pytest.raises(KeyError), run_settings():
        a_run()
    assert state() == before
    assert os.environ["PL_GLOBAL_SEED"] == "3"


def test_the_users_own_deterministic_mode_is_kept(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with run_settings():
            torch.use_deterministic_algorithms(False)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    finally:
        torch.use_deterministic_algorithms(False)
