import pytest

from detection.classification import train as training
from detection.classification.config import ClassifierConfig
from detection.cli import run
from detection.config import load

CONFIG = ["--config", "shapes_resnet18"]


@pytest.fixture
def calls(monkeypatch):
    """What training and evaluation were asked for; neither is done."""
    found = []
    for name in ("train", "evaluate_only"):
        monkeypatch.setattr(training, name, lambda *args, name=name, **options: found.append((name, args, options)))
    return found


def test_a_printed_configuration_is_one_to_load(calls, tmp_path, capsys):
    assert run("train-classifier", [*CONFIG, "--print-config", "solver.max_iter=7", "network.width=8"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    printed = load(ClassifierConfig, tmp_path / "printed.yaml")
    assert (printed.solver.max_iter, printed.network.width) == (7, 8)
    assert printed == load(ClassifierConfig, "shapes_resnet18", ["solver.max_iter=7", "network.width=8"], "classifiers")
    assert calls == []


def test_training_gets_the_configuration_and_the_folder(calls, tmp_path):
    assert run("train-classifier", [*CONFIG, "seed=5", "--output", str(tmp_path), "--resume"]) == 0
    ((name, (config, output), options),) = calls
    assert (name, config.seed, output, options) == ("train", 5, tmp_path, {"resume": True})


def test_the_folder_is_named_after_the_configuration(calls):
    assert run("train-classifier", CONFIG) == 0
    assert str(calls[0][1][1]) == "output/shapes_resnet18"


@pytest.mark.parametrize(("extra", "weights"), [([], "best.pth"), (["--weights", "other.pth"], "other.pth")])
def test_evaluation_takes_the_best_weights_unless_others_are_given(calls, tmp_path, extra, weights):
    assert run("train-classifier", [*CONFIG, "--eval-only", "--output", str(tmp_path), "--views", "ten", *extra]) == 0
    ((name, (_, file, output, views), _),) = calls
    assert (name, file.name, output, views) == ("evaluate_only", weights, tmp_path, "ten")


@pytest.mark.parametrize("extra", [[], ["--eval-only"]])
def test_precision_is_short_for_the_solvers(calls, tmp_path, extra):
    assert run("train-classifier", [*CONFIG, "--precision", "fp16", "--output", str(tmp_path), *extra]) == 0
    assert calls[0][1][0].solver.precision == "fp16"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([*CONFIG, "--weights", "a.pth"], "--eval-only"),
        ([*CONFIG, "--views", "ten"], "--eval-only"),
        (["--config", "shapes_resnet81"], "shapes_resnet18"),
        ([*CONFIG, "network.nam=x"], "network.name"),
        ([*CONFIG, "data.flip=2"], "data.flip"),
        ([*CONFIG, "no-key"], "key=value"),
    ],
)
def test_errors_of_the_user(calls, argv, words, capsys):
    assert run("train-classifier", argv) == 2
    assert words in capsys.readouterr().err
    assert calls == []


@pytest.mark.parametrize("argv", [[], [*CONFIG, "--views", "eleven"]])
def test_usage_errors(argv):
    with pytest.raises(SystemExit) as ended:
        run("train-classifier", argv)
    assert ended.value.code == 2
