import pytest

from detection.cli import run
from detection.commands import degradation as command

CONFIG = ["--config", "degradation_shapes"]


class Asked(ValueError):
    """The runs that would be trained."""


@pytest.fixture(autouse=True)
def runs(monkeypatch):
    """The runs that were asked for; none is trained, and the command ends there."""
    found = []

    def train_all(runs, jobs):
        found.extend((run, jobs) for run in runs)
        raise Asked("enough")

    monkeypatch.setattr(command, "train_all", train_all)
    return found


def test_every_network_is_trained_from_every_seed_by_one_recipe(runs, tmp_path):
    options = ["--networks", "plain18,resnet18", "--seeds", "0,3", "--jobs", "2", "--output", str(tmp_path)]
    assert run("degradation", [*CONFIG, *options, "solver.max_iter=9"]) == 2  # as far as this test lets it
    assert {(r.config.network.name, r.config.seed) for r, _ in runs} == {
        ("plain18", 0),
        ("resnet18", 0),
        ("plain18", 3),
        ("resnet18", 3),
    }
    assert all(jobs == 2 and r.config.solver.max_iter == 9 for r, jobs in runs)
    assert len({r.folder for r, _ in runs}) == 4


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--jobs", "0"], "--jobs"),
        (["--seeds", "0,x"], "--seeds"),
        (["--seeds", "0,0"], "duplicate"),
        (["--networks", "plain18,plain18"], "duplicate"),
        (["--networks", "plain19"], "plain18"),
        (["data.val=null"], "data.val"),
        (["mixup=0.2"], "mixup"),
        (["solver.early_stop=3"], "early_stop"),
    ],
)
def test_errors_of_the_user(runs, argv, words, capsys):
    assert run("degradation", [*CONFIG, *argv]) == 2
    assert words in capsys.readouterr().err
    assert runs == []
