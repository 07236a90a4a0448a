import pytest

from detection.cli import run
from detection.config import load_config
from detection.training import run as training

CONFIG = ["--config", "quickstart"]


@pytest.fixture
def calls(monkeypatch):
    """What training and evaluation were asked for; neither is done."""
    found = []
    for name in ("train_config", "evaluate_only"):
        monkeypatch.setattr(training, name, lambda *args, name=name, **options: found.append((name, args, options)))
    return found


def test_a_printed_configuration_is_one_to_load(calls, tmp_path, capsys):
    assert run("train", [*CONFIG, "--print-config", "--padded", "seed=5"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "printed.yaml") == load_config("quickstart", ["model.padded=true", "seed=5"])
    assert calls == []


def test_weights_of_training_go_to_the_model_as_they_are_written(calls, tmp_path):
    weights = 'a "quoted": C:\\new.pth'
    assert run("train", [*CONFIG, "--weights", weights, "--output", str(tmp_path), "--resume"]) == 0
    ((name, (config, output), options),) = calls
    assert (name, config.model.weights, output) == ("train_config", weights, tmp_path)
    assert options == {"resume": True, "config_name": "quickstart"}


def test_an_evaluation_changes_keys_of_the_model_alone(calls, tmp_path):
    keys = ["model.roi.nms_iou=0.3", "data.val=4"]
    assert run("train", [*CONFIG, "--eval-only", "--output", str(tmp_path), *keys]) == 0
    ((name, (config, weights, output, model_keys, config_name), _),) = calls
    assert (name, weights, output) == ("evaluate_only", tmp_path / "best.pth", tmp_path)
    assert (config.data.val, model_keys, config_name) == ("4", ["model.roi.nms_iou=0.3"], "quickstart")


@pytest.mark.parametrize("extra", [[], ["--eval-only"]])
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16", "auto"])
def test_precision_is_short_for_the_solvers(calls, tmp_path, precision, extra):
    assert run("train", [*CONFIG, "--precision", precision, "--output", str(tmp_path), *extra]) == 0
    assert calls[0][1][0].solver.precision == precision


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--config", "quickstrat"], "quickstart"),
        ([*CONFIG, "solver.bse_lr=1"], "solver.base_lr"),
        ([*CONFIG, "solver.base_lr=fast"], "solver.base_lr"),
    ],
)
def test_errors_of_the_user(calls, argv, words, capsys):
    assert run("train", argv) == 2
    assert words in capsys.readouterr().err
    assert calls == []
