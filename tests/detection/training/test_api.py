"""The Python API for training and evaluation."""

import gc
import json
import signal

import lightning
import numpy as np
import pytest
from PIL import Image
from runs import SMALL, rows

import resdet
from detection import FasterRCNN, evaluate, load_config, train
from detection.data import Annotations, DataError

pytestmark = pytest.mark.usefixtures("thin_networks")


class Count(lightning.Callback):
    steps = 0

    def on_train_batch_end(self, *args):
        self.steps += 1


class Lines:
    """A minimal logger that records its metrics."""

    def __init__(self):
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append((step, metrics))


class Broken:
    def log_metrics(self, metrics, step=None):
        raise RuntimeError("no connection")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("arrays"), np.random.default_rng(0)
    files = []
    for k in range(4):
        files.append(str(folder / f"{k}.png"))
        Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(files[-1])
    boxes = [[[5, 5, 40, 50]], [[10, 10, 60, 60], [0, 0, 20, 20]], np.zeros((0, 4)), [[30, 20, 79, 63]]]
    return Annotations.from_arrays(files, boxes, [[1], [2, 1], [], [2]], ["left", "right"])


def test_custom_arrays_with_callback_and_loggers(arrays, tmp_path, caplog):
    count, lines = Count(), Lines()
    run = train(
        "quickstart.yaml",
        [*SMALL, "solver.max_iter=2"],
        output=tmp_path,
        train_set=arrays,
        val_set=arrays,
        callbacks=[count],
        loggers=[Broken(), lines],
    )
    assert count.steps == 2
    assert "Broken failed and is disabled: no connection" in caplog.text
    assert [step for step, line in lines.lines if "loss" in line] == [1, 2]
    assert lines.lines[0][1]["loss"] == rows(tmp_path)[0]["loss"]
    assert run.output == tmp_path
    assert run.metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert resdet.Predictor(run.best, device="cpu").classes == ("left", "right")


def test_command_and_python_api_train_identically(tmp_path):
    from runs import train as train_command

    keys = ["data.val=1", "solver.max_iter=2"]
    assert train_command(tmp_path / "command", keys=keys) == 0
    run = train(load_config("quickstart.yaml", [*SMALL, *keys]), output=tmp_path / "python")
    assert rows(tmp_path / "command") == rows(tmp_path / "python")
    metrics = evaluate(run.best)
    assert metrics == run.metrics
    other = evaluate(run.best, ["data.val=2"], output=tmp_path / "other")
    assert other == json.loads((tmp_path / "other" / "metrics.json").read_text())


def test_invalid_datasets_raise(arrays, tmp_path):
    other = Annotations.from_arrays(list(arrays.files), [[]] * 4, [[]] * 4, ["one"])
    with pytest.raises(DataError, match="train_set: left, right"):
        train("quickstart.yaml", output=tmp_path, train_set=arrays, val_set=other)
    with pytest.raises(DataError, match="val_set requires train_set"):
        train("quickstart.yaml", output=tmp_path, val_set=arrays)
    with pytest.raises(DataError, match=r"0\.png: labels must be in 1\.\.1, got \[2\]"):
        Annotations.from_arrays([arrays.files[0]], [[[0, 0, 2, 2]]], [[2]], ["one"])
    with pytest.raises(DataError, match="expected boxes"):
        Annotations.from_arrays([arrays.files[0]], [[0, 0, 2]], [[1]], ["one"])
    assert list(tmp_path.iterdir()) == []


def test_resdet_reexports_the_public_api():
    import backbone
    import detection

    for name in detection.__all__:
        assert getattr(resdet, name) is getattr(detection, name)
    for name in set(backbone.__all__) - set(detection.__all__):
        assert getattr(resdet, name) is getattr(backbone, name)


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


def test_a_run_leaves_no_signal_handler_and_no_model_behind(tmp_path, monkeypatch):
    before = handlers()

    def models():
        gc.collect()
        return {id(o) for o in gc.get_objects() if isinstance(o, FasterRCNN)}

    alive = models()
    keys = [*SMALL, "data.val=null", "solver.max_iter=1"]
    train("quickstart.yaml", keys, output=tmp_path / "good")
    assert handlers() == before
    assert models() <= alive
    monkeypatch.setattr(FasterRCNN, "losses", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("quickstart.yaml", keys, output=tmp_path / "failed")
    assert handlers() == before
