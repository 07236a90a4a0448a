"""CUDA branches of every command, run on a CPU with a fake GPU (fake_cuda.py)."""

import lightning
import numpy as np
import pytest
import torch
from fake_cuda import one_gpu
from PIL import Image
from runs import train

from detection import Predictor
from detection.cli import run
from detection.training import shapes_pretraining
from detection.training import trainer as training_trainer

pytestmark = pytest.mark.usefixtures("thin_networks")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "run"
    assert train(output, keys=["data.val=1", "solver.max_iter=1"]) == 0
    return output / "best.pth"


@pytest.fixture
def image(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.fixture
def gpu(monkeypatch):
    with one_gpu(monkeypatch) as calls:
        # Lightning's GPU code is not tested here: the requested accelerator is recorded and replaced by the CPU
        trainer_class = lightning.Trainer
        accelerators = []

        def make(**options):
            accelerators.append(options["accelerator"])
            return trainer_class(**options | {"accelerator": "cpu"})

        monkeypatch.setattr(training_trainer.L, "Trainer", make)
        calls.accelerators = accelerators
        yield calls


def test_fake_cuda_checks_arguments_like_torch(gpu):
    with pytest.raises(ValueError, match=r"Expected a torch.device with a specified index"):
        torch.cuda.set_device(torch.device("cuda"))
    with pytest.raises(ValueError):
        torch.cuda.set_device("cuda")
    torch.cuda.set_device(torch.device("cuda", 0))
    assert torch.zeros(2, device="cuda").sum() == 0
    assert torch.rand(3).to(torch.device("cuda", 0)).shape == (3,)
    assert gpu.moved if hasattr(gpu, "moved") else gpu.mode.moved >= 2


@pytest.mark.parametrize("device", [[], ["--device", "cuda"], ["--device", "cuda:0"]])
def test_predict(gpu, weights, image, tmp_path, device):
    assert run("predict", ["--weights", str(weights), "--output", str(tmp_path / "out"), *device, str(image)]) == 0
    assert gpu.mode.moved
    assert gpu.set_device == ([0] if device[1:] == ["cuda:0"] else [])


def test_cuda_graphs_require_a_gpu(gpu, weights, caplog):
    predictor = Predictor(weights, device="cpu")
    assert predictor.device.type == "cpu"
    with pytest.raises(ValueError, match="CUDA graphs require a detector on a GPU, it is on cpu"):
        Predictor(weights, cuda_graphs=True)  # its tensors are on the CPU here


def test_train_and_evaluate(gpu, tmp_path, weights):
    assert train(tmp_path / "run", keys=["data.val=1", "solver.max_iter=2", "solver.val_loss=true"]) == 0
    assert gpu.accelerators == ["cuda"]
    assert train(tmp_path / "eval", "--eval-only", "--weights", str(weights), keys=["data.val=1"]) == 0
    assert gpu.set_device == [0]


def test_pretraining_on_crops(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes_pretraining, "_STATISTICS_BATCHES", 2)
    keys = ["pretrain.iterations=2", "pretrain.crops=8", "pretrain.sizes=[20]", "pretrain.mosaic=40", "pretrain.rois=4"]
    assert train(tmp_path / "run", keys=["data.val=null", "solver.max_iter=1", "model.norm=frozen_bn", *keys]) == 0


def test_classifiers(gpu, tmp_path, image):
    output = tmp_path / "classifier"
    keys = [
        "data.train=8", "data.val=4", "data.workers=0", "solver.max_iter=2", "solver.batch_size=4", "solver.warmup=0",
        "statistics_images=4", "network.width=4",
    ]  # fmt: skip
    config = ["--config", "degradation_shapes", "--output", str(output)]
    assert run("train-classifier", [*config, *keys]) == 0
    assert run("train-classifier", [*config, "--eval-only", *keys]) == 0
    assert run("classify", ["--weights", str(output / "best.pth"), str(image)]) == 0


@pytest.mark.parametrize("arguments", [["inspect", "resnet18"], ["check-dataset", "--help"]])
def test_commands_without_a_device(gpu, arguments):
    if arguments[-1] == "--help":
        with pytest.raises(SystemExit):
            run(arguments[0], arguments[1:])
    else:
        assert run(arguments[0], arguments[1:]) == 0
