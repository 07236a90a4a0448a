import pytest

from detection.config import SolverConfig
from detection.training.schedule import in_steps, iterations, make_schedule, scaled_lr, unreached


def test_fractions_and_steps():
    assert iterations(0.75, 600) == 450
    assert iterations(210000, 600) == 210000
    assert iterations(0, 600) == 0
    assert iterations(1, 600) == 1


def test_steps_and_warmup_computed_by_hand():
    schedule = make_schedule(SolverConfig(max_iter=100, steps=(0.5, 80), warmup=10, warmup_factor=0.1, gamma=0.1))
    assert [schedule(s) for s in (0, 5, 10, 49)] == pytest.approx([0.1, 0.55, 1, 1])
    assert [schedule(s) for s in (50, 79, 80, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


def test_cosine_ends_at_zero():
    schedule = make_schedule(SolverConfig(max_iter=100, schedule="cosine", warmup=0))
    assert [schedule(s) for s in (0, 50, 100)] == pytest.approx([1, 0.5, 0])


def test_learning_rate_scales_with_the_batch_size():
    assert scaled_lr(SolverConfig(base_lr=0.02, batch_size=16)) == 0.02
    assert scaled_lr(SolverConfig(base_lr=0.02, batch_size=2)) == pytest.approx(0.0025)
    assert scaled_lr(SolverConfig(base_lr=0.02, batch_size=4, lr_scaling="sqrt")) == pytest.approx(0.01)
    assert scaled_lr(SolverConfig(base_lr=0.02, batch_size=4, lr_scaling="none")) == 0.02


def test_recovery_halves_all_later_learning_rates():
    schedule = make_schedule(SolverConfig(max_iter=100, steps=(50,), warmup=10, warmup_factor=0.1))
    schedule.halvings += 1
    assert [schedule(s) for s in (0, 10, 50)] == pytest.approx([0.05, 0.5, 0.05])


def test_plateau():
    schedule = make_schedule(
        SolverConfig(max_iter=100, schedule="plateau", eval_every=10, warmup=10, warmup_factor=0.1)
    )
    assert [schedule(s) for s in (0, 10, 60, 90)] == pytest.approx([0.1, 1, 1, 1])
    schedule.falls += 1
    assert [schedule(s) for s in (60, 90)] == pytest.approx([0.1, 0.1])
    with pytest.raises(ValueError, match="eval_every"):
        SolverConfig(schedule="plateau")


def test_steps_and_warmup_beyond_the_run_are_named():
    (text,) = unreached(SolverConfig(max_iter=1000))
    assert text.startswith("solver.steps 210000, 250000 never come, since solver.max_iter is 1000")
    (text,) = unreached(SolverConfig(max_iter=1000, steps=(0.5, 900, 1000)))
    assert text.startswith("solver.steps 1000 never come")
    (text,) = unreached(SolverConfig(max_iter=300, steps=(0.5,), warmup=301))
    assert text.startswith("solver.warmup=301 is longer than the run, solver.max_iter=300")
    assert unreached(SolverConfig(max_iter=300, schedule="cosine", warmup=300)) == []
    assert unreached(SolverConfig()) == []


def test_epochs_become_steps_of_the_data_and_the_batch(caplog):
    """100 images at 8 a step: 12.5 steps an epoch."""
    config = SolverConfig(max_epochs=12, steps_epochs=(8, 11), warmup_epochs=0.4, batch_size=8)
    assert config.max_iter == 0
    with caplog.at_level("INFO"):
        solver = in_steps(config, 100)
    assert (solver.max_iter, solver.steps, solver.warmup) == (150, (100, 138), 5)
    assert (solver.max_epochs, solver.steps_epochs, solver.warmup_epochs) == (None, (), None)
    assert "solver.max_epochs=12: 150 steps, 100 images at 8 a step" in caplog.text
    assert in_steps(solver, 100) == solver
    assert in_steps(SolverConfig(max_epochs=1, batch_size=8), 100).max_iter == 13  # the last epoch is whole
    assert in_steps(SolverConfig(max_iter=40, warmup_epochs=0, batch_size=8), 100).warmup == 0
    schedule = make_schedule(solver)
    assert [schedule(s) for s in (99, 100, 137, 138)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_a_length_in_epochs_needs_the_data():
    with pytest.raises(ValueError, match=r"solver\.max_epochs=3 needs the data"):
        make_schedule(SolverConfig(max_epochs=3))
