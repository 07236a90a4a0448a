import csv
import json
import math

import pytest
import torch
from PIL import Image
from torch import nn

from backbone import RECIPES, cifar_resnet, load_weights, resnet18
from detection.classification.config import ClassifierConfig
from detection.classification.images import EvalDataset, open_dataset
from detection.classification.networks import build_network
from detection.classification.train import ClassificationModule, count_correct, recompute_statistics
from detection.cli import run
from detection.config import config_folder, load
from detection.training.callbacks.checkpoints import Checkpoints

SMALL = [
    "data.train=24",
    "data.val=12",
    "data.crop=32",
    "data.workers=0",
    "solver.batch_size=4",
    "solver.max_iter=4",
    "solver.log_every=1",
    "solver.checkpoint_every=2",
    "statistics_images=20",
]


def go(output, *extra, keys=()):
    return run("train-classifier", ["--config", "shapes_resnet18", "--output", str(output), *extra, *SMALL, *keys])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    assert go(folder) == 0
    return folder


def test_run_files(finished):
    files = {p.name for p in finished.iterdir()}
    assert {"config.yaml", "metrics.json", "metrics.jsonl", "metrics.csv", "best.pth", "last.pth", "log.txt"} <= files
    metrics = json.loads((finished / "metrics.json").read_text())
    assert 0 <= metrics["top1"] <= metrics["top5"] <= 1
    rows = list(csv.DictReader((finished / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4", "4"]
    assert float(rows[-1]["top1"]) == metrics["top1"]
    content = torch.load(finished / "best.pth", weights_only=True)
    assert content["recipe"] == "torchvision"
    assert content["classifier"]["classes"] == ["crescent", "cross", "disc", "square", "star", "triangle"]


def test_classifier_as_detector_backbone(finished, tmp_path):
    """best.pth is accepted by --weights of a detector with frozen norms."""
    keys = ["data.train=6", "data.val=null", "data.short_side=[64]", "data.max_side=80", "data.workers=0"]
    keys += ["pretrain.iterations=0", "solver.batch_size=2", "solver.max_iter=1", "model.roi.batch_per_image=8"]
    argv = ["--config", "quickstart.yaml", "--weights", str(finished / "best.pth"), "--output", str(tmp_path), *keys]
    assert run("train", argv) == 0
    detector = torch.load(tmp_path / "best.pth", weights_only=True)["model"]
    net = torch.load(finished / "best.pth", weights_only=True)["model"]
    assert torch.equal(detector["trunk.layer1.0.conv1.weight"], net["layer1.0.conv1.weight"])
    assert torch.equal(detector["trunk.layer3.1.bn2.running_var"], net["layer3.1.bn2.running_var"])


def test_resumed_run_equals_uninterrupted_run(finished, tmp_path):
    assert go(tmp_path, keys=["solver.max_iter=4"]) == 0
    uninterrupted = torch.load(tmp_path / "last.pth", weights_only=True)
    other = tmp_path / "other"
    torch.manual_seed(5)
    save = Checkpoints.save

    def stop(self, trainer):
        save(self, trainer)
        if trainer.global_step == 2:
            raise RuntimeError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", stop)
        with pytest.raises(RuntimeError, match="stopped"):
            go(other)
    assert go(other, "--resume") == 0
    resumed = torch.load(other / "last.pth", weights_only=True)
    assert uninterrupted["global_step"] == resumed["global_step"] == 4
    for key, value in uninterrupted["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key


def test_resume_with_another_network_is_rejected(finished, capsys):
    assert go(finished, "--resume", keys=["network.shortcut=C"]) == 2
    assert "was trained with another network.shortcut" in capsys.readouterr().err


def test_invalid_keys_suggest_the_nearest(tmp_path, capsys):
    assert go(tmp_path, keys=["network.shortcuts=A"]) == 2
    assert "did you mean network.shortcut?" in capsys.readouterr().err
    assert run("train-classifier", ["--config", "resnet50_imagenets", "--output", str(tmp_path)]) == 2
    assert "did you mean resnet50_imagenet.yaml?" in capsys.readouterr().err
    assert run("train-classifier", ["--config", "resnet50_imagenet", "--output", str(tmp_path / "no")]) == 2
    assert "CLASS/image.jpg" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("path", sorted((config_folder() / "classifiers").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_build(path):
    config = load(ClassifierConfig, path.stem, (), "classifiers")
    with torch.device("meta"):
        net = build_network(config.network, 10)
    assert net.fc.out_features == 10
    assert config.expects


def test_statistics_are_means_over_all_batches():
    """Compare the first norm, whose input depends on no other norm, with statistics computed directly."""
    net = cifar_resnet(20)
    batches = list(torch.randn(3, 5, 3, 16, 16))
    recompute_statistics(net, batches)
    with torch.no_grad():
        maps = [net.conv1(batch) for batch in batches]
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    var = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
    torch.testing.assert_close(net.bn1.running_mean, mean)
    torch.testing.assert_close(net.bn1.running_var, var)
    assert net.bn1.momentum == 0.1


def test_count_correct():
    class Fixed(nn.Module):
        def forward(self, x):
            return x[:, 0, 0]  # the first row's seven pixels

    row = torch.tensor([3, 9, 8, 7, 6, 5, 4], dtype=torch.uint8)
    images = row.expand(4, 3, 2, 7)
    loader = [(images[:3], torch.tensor([1, 5, 6])), (images[3:], torch.tensor([-1]))]
    correct = count_correct(Fixed(), loader, lambda x: x, torch.device("cpu"), dtype=torch.float32)
    assert correct.tolist() == [1, 2]  # class 1 ranks first, 5 fifth, 6 sixth; -1 is an unreadable image


def test_init_from(tmp_path):
    torch.save(resnet18(num_classes=6).state_dict(), tmp_path / "init.pth")
    keys = [
        f"network.init_from={tmp_path / 'init.pth'}",
        "solver.base_lr=1e-12",
        "statistics_images=0",
        "data.val=null",
    ]
    assert go(tmp_path / "run", keys=keys) == 0
    net = resnet18(num_classes=6)
    assert not load_weights(net, tmp_path / "run" / "best.pth").missing
    initial = torch.load(tmp_path / "init.pth", weights_only=True)
    torch.testing.assert_close(net.state_dict()["conv1.weight"], initial["conv1.weight"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("views", ["single", "ten", "scales"])
def test_eval_only(finished, tmp_path, views, monkeypatch):
    monkeypatch.setattr("detection.classification.views.SCALES", (32, 48))
    argv = ["--eval-only", "--weights", str(finished / "best.pth"), "--views", views]
    assert go(tmp_path, *argv) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert 0 <= metrics["top1"] <= metrics["top5"] <= 1
    if views == "single":
        assert metrics == json.loads((finished / "metrics.json").read_text())


def test_eval_only_with_other_classes_is_rejected(finished, tmp_path, capsys):
    for name in ("disc", "ring"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "val" / name / "a.png")
    keys = ["data.format=folders", f"data.root={tmp_path}", "data.val=val"]
    assert go(tmp_path / "run", "--eval-only", "--weights", str(finished / "best.pth"), keys=keys) == 2
    err = capsys.readouterr().err
    assert "different classes" in err
    assert "disc, ring" in err
    assert "crescent, cross" in err
    assert go(tmp_path / "run", "--weights", "some.pth") == 2
    assert "network.init_from" in capsys.readouterr().err


def test_mixup_mixes_labels():
    """The mixup loss of two images is the mean of the losses of their labels, weighted by the sampled lambda."""
    config = load(ClassifierConfig, "shapes_resnet18", ["mixup=1.0"], "classifiers")
    module = ClassificationModule(resnet18(num_classes=6).eval(), config, tuple("abcdef"))
    calls = []
    module.model.register_forward_hook(lambda _, inputs, out: calls.append((inputs[0], out)))
    images = torch.stack((torch.zeros(3, 32, 32), torch.full((3, 32, 32), 255.0))).to(torch.uint8)
    labels = torch.tensor([2, 4])
    before = torch.get_rng_state()
    loss = module.compute_losses((images, labels), torch.Generator().manual_seed(3))["loss_classifier"]
    assert torch.equal(torch.get_rng_state(), before)
    mixed, logits = calls[0]
    black, white = module.recipe.normalise(torch.zeros(3, 1, 1)), module.recipe.normalise(torch.ones(3, 1, 1))
    lam = ((mixed[0] - black) / (white - black)).mean()  # weight of the white image in the first mixed image
    log = logits.detach().log_softmax(1)
    first = -(1 - lam) * log[0, 2] - lam * log[0, 4]
    second = -(1 - lam) * log[1, 4] - lam * log[1, 2]
    torch.testing.assert_close(loss.detach(), (first + second) / 2)
    again = module.compute_losses((images, labels), torch.Generator().manual_seed(3))["loss_classifier"]
    assert torch.equal(loss, again)


def test_saved_statistics_are_recomputed(finished, tmp_path):
    """The first norm of best.pth has the statistics of the training images with the saved convolution."""
    assert go(tmp_path, keys=["statistics_images=24", "solver.batch_size=24", "data.val=null"]) == 0
    config = load(ClassifierConfig, "shapes_resnet18", SMALL, "classifiers")
    images_of_split = open_dataset(config.data, "train", "24")
    images = torch.stack([EvalDataset(images_of_split, config.data)[i][0] for i in range(24)])
    state = torch.load(tmp_path / "best.pth", weights_only=True)["model"]
    net = resnet18(num_classes=6)
    net.load_state_dict(state)
    with torch.no_grad():
        maps = net.conv1(RECIPES["torchvision"].normalise(images.float() / 255))
    torch.testing.assert_close(state["bn1.running_mean"], maps.mean((0, 2, 3)), rtol=2e-2, atol=2e-3)  # bf16
    torch.testing.assert_close(state["bn1.running_var"], maps.var((0, 2, 3)), rtol=2e-2, atol=2e-3)


def test_learning_rate_decays_on_plateau(tmp_path):
    """A network that does not learn: after every two evaluations without improvement the learning rate is divided by 10."""
    keys = [
        "solver.schedule=plateau",
        "solver.patience=2",
        "solver.eval_every=1",
        "solver.max_iter=8",
        "solver.warmup=0",
    ]
    keys += ["network.name=cifar_resnet20", "network.width=4", "solver.base_lr=1e-9", "statistics_images=0"]
    assert go(tmp_path, keys=keys) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [row["lr"] for row in rows if "lr" in row]
    best, bad_evaluations, factor, expected = -1.0, 0, 1.0, [1.0]
    for top1 in [row["top1"] for row in rows if "top1" in row][:-1]:
        best, bad_evaluations = (top1, 0) if top1 > best else (best, bad_evaluations + 1)
        if bad_evaluations in (2, 4, 6):
            factor /= 10
        expected.append(factor)
    assert factor < 1
    assert [rate / rates[0] for rate in rates] == pytest.approx(expected)
    state = torch.load(tmp_path / "last.pth", weights_only=True)
    assert state["lr_schedulers"][0]["lr_lambdas"][0]["falls"] == round(-math.log10(factor))


def test_plateau_needs_a_validation_set(tmp_path, capsys):
    assert go(tmp_path, keys=["solver.schedule=plateau", "solver.eval_every=1", "data.val=null"]) == 2
    assert "data.val is null" in capsys.readouterr().err
