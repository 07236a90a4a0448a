"""Small training runs on the synthetic dataset: files, resume, EMA, distributed, invalid settings."""

import functools
import json
import multiprocessing
import os
import shutil

import pytest
import torch
from forked import require_fork
from PIL import Image
from ranks import two_ranks
from runs import SMALL, load, train

from backbone.resnet import FACTORIES, resnet18
from detection import load_config, load_detector
from detection.cli import run
from detection.commands.predict import main as predict
from detection.training import shapes_pretraining
from detection.training.callbacks.checkpoints import Checkpoints

pytestmark = pytest.mark.usefixtures("thin_networks")
FILES = {
    "config.yaml",
    "metrics.json",
    "metrics.jsonl",
    "metrics.csv",
    "last.pth",
    "best.pth",
    "detections.json",
    "log.txt",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train(folder) == 0
    return folder


def test_files_of_a_run(finished):
    assert {p.name for p in finished.iterdir()} >= FILES | {"pictures", "ground_truth.json", "per_class.csv"}
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics) >= {"AP", "AP50", "VOC07_mAP", "VOC_mAP", "per_class"}
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 4]
    assert set(rows[0]) >= {"loss", "loss_objectness", "loss_rpn_box", "loss_classifier", "loss_box", "lr", "seconds"}
    assert "AP" in rows[-1]
    assert (finished / "metrics.csv").read_text().count("\n") == 6
    for result in json.loads((finished / "detections.json").read_text()):
        assert set(result) == {"image_id", "category_id", "bbox", "score", "category_name"}
    assert load_config(finished / "config.yaml").solver.max_iter == 4
    assert Image.open(finished / "pictures" / "all.png").size[0] > 500


def test_checkpoints_load_as_detectors(finished):
    for name in ("best.pth", "last.pth"):
        model, classes = load_detector(finished / name)
        assert classes == ("crescent", "cross", "disc", "square", "star", "triangle")
        assert not model.training
        assert set(model([torch.rand(3, 64, 80)])[0]) == {"boxes", "labels", "scores"}


def test_eval_only_reproduces_the_metrics(finished, tmp_path):
    assert train(tmp_path, "--eval-only", "--weights", str(finished / "best.pth")) == 0
    assert (tmp_path / "metrics.json").read_text() == (finished / "metrics.json").read_text()
    assert (tmp_path / "detections.json").read_text() == (finished / "detections.json").read_text()


def test_earlier_run_is_kept(tmp_path):
    (tmp_path / "last.pth").write_text("precious")
    (tmp_path / "notes.txt").write_text("mine")
    assert train(tmp_path, keys=["solver.max_iter=1"]) == 0
    assert (tmp_path / "earlier-1" / "last.pth").read_text() == "precious"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def stopped_at_step_2(output, keys):
    """Train in a process that ends at once after its checkpoint of step 2."""
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    save = Checkpoints.save

    def save_and_exit(self, trainer):
        save(self, trainer)
        if trainer.global_step == 2:
            os._exit(9)

    Checkpoints.save = save_and_exit
    train(output, keys=keys)
    os._exit(1)


@pytest.mark.parametrize(
    "keys", [[], ["solver.accumulate=2", "solver.ema=0.9", "data.workers=1", "solver.eval_every=2"]]
)
def test_resumed_run_equals_the_uninterrupted(tmp_path, keys):
    """Weights, optimiser, EMA and metrics are bit-equal; steps=[3] changes the learning rate after resuming."""
    keys = [*keys, "solver.steps=[3]"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(whole, keys=keys) == 0
    require_fork()
    process = multiprocessing.get_context("fork").Process(target=stopped_at_step_2, args=(broken, keys))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (broken / "metrics.json").exists() or keys
    assert train(broken, "--resume", keys=keys) == 0
    a, b = load(whole / "last.pth"), load(broken / "last.pth")
    assert a["global_step"] == b["global_step"] == 4
    assert all(torch.equal(v, b["state_dict"][k]) for k, v in a["state_dict"].items())
    moments = [run_state["optimizer_states"][0]["state"] for run_state in (a, b)]
    for index, values in moments[0].items():
        assert all(torch.equal(v, moments[1][index][name]) for name, v in values.items())
    assert (whole / "detections.json").read_text() == (broken / "detections.json").read_text()
    losses = [
        [json.loads(line).get("loss") for line in (f / "metrics.jsonl").read_text().splitlines()]
        for f in (whole, broken)
    ]
    assert losses[0] == losses[1]


def test_resume_with_another_model_raises(finished, capsys):
    assert train(finished, "--resume", keys=["model.roi.resolution=8"]) == 2
    assert "another model" in capsys.readouterr().err


@pytest.mark.parametrize("keys", [["solver.base_lr=1.0"], ["solver.momentum=0.5"]])
def test_resume_with_another_solver_raises(finished, capsys, keys):
    before = (finished / "config.yaml").read_text()
    assert train(finished, "--resume", keys=keys) == 2
    assert f"another {keys[0].partition('=')[0]}" in capsys.readouterr().err
    assert (finished / "config.yaml").read_text() == before


def test_run_killed_in_its_last_evaluation_is_completed(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    state_ = load(folder / "last.pth")
    for name, content in state_["callbacks"].items():
        if "Evaluation" in name:
            content.update(done_at=-1, best=-1.0)
    torch.save(state_, folder / "last.pth")
    for name in ("metrics.json", "best.pth", "detections.json"):
        (folder / name).unlink()
    assert train(folder, "--resume") == 0
    assert (folder / "metrics.json").read_text() == (finished / "metrics.json").read_text()
    assert (folder / "best.pth").exists()


def test_last_checkpoint_is_saved_before_the_last_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr("detection.training.evaluator.detect", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, keys=["solver.checkpoint_every=100"])
    assert load(tmp_path / "last.pth")["global_step"] == 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["model.norm=frozen_bn"], "frozen norms over random weights"),
        (["model.weights=some.pth", "pretrain.iterations=5"], "mutually exclusive"),
        (["model.weights=nowhere.pth"], "no weights file"),
    ],
)
def test_invalid_start_keeps_the_earlier_run(tmp_path, capsys, keys, message):
    (tmp_path / "last.pth").write_text("precious")
    assert train(tmp_path, keys=keys) == 2
    assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


def test_eval_only_applies_model_keys_and_keeps_earlier_metrics(finished, tmp_path):
    (tmp_path / "metrics.json").write_text("earlier")
    arguments = ["--eval-only", "--weights", str(finished / "best.pth")]
    assert train(tmp_path, *arguments, keys=["model.roi.max_detections=1"]) == 0
    detections = json.loads((tmp_path / "detections.json").read_text())
    assert len(detections) == len({d["image_id"] for d in detections})
    assert (tmp_path / "earlier-1" / "metrics.json").read_text() == "earlier"


def test_best_checkpoint_has_the_ema_weights(tmp_path):
    assert train(tmp_path, keys=["solver.ema=0.5", "solver.max_iter=2"]) == 0
    last, best = load(tmp_path / "last.pth")["state_dict"], load(tmp_path / "best.pth")["model"]
    assert torch.equal(best["rpn.conv.weight"], last["average.module.rpn.conv.weight"])
    assert not torch.equal(best["rpn.conv.weight"], last["model.rpn.conv.weight"])


def test_early_stop_and_validation_losses(tmp_path):
    keys = [
        "solver.eval_every=1",
        "solver.early_stop=2",
        "solver.max_iter=50",
        "solver.base_lr=1e-9",
        "solver.val_loss=true",
    ]
    assert train(tmp_path, keys=keys) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert 3 <= max(r["step"] for r in rows) < 50
    assert [r for r in rows if "val_loss_box" in r]


def test_clipping_and_bf16(tmp_path):
    assert train(tmp_path, keys=["solver.clip_norm=1.0", "solver.precision=bf16", "solver.max_iter=2"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(r["loss"] == r["loss"] for r in rows if "loss" in r)


def test_two_processes_train_and_evaluate(tmp_path):
    keys = ["data.val=5", "solver.max_iter=2", "solver.ema=0.9"]
    assert two_ranks(train, tmp_path, *keys) == [0, 0]
    assert "2 processes x 1 micro-batches" in (tmp_path / "log.txt").read_text()
    images = json.loads((tmp_path / "ground_truth.json").read_text())["images"]
    detections = json.loads((tmp_path / "detections.json").read_text())
    assert {d["image_id"] for d in detections} <= {im["id"] for im in images}
    assert len({(d["image_id"], *d["bbox"], d["score"]) for d in detections}) == len(detections)
    weights = tmp_path / "best.pth"
    assert two_ranks(train, tmp_path / "again", "--eval-only", f"--weights={weights}", *keys) == [0, 0]
    assert json.loads((tmp_path / "again/metrics.json").read_text()) == json.loads(
        (tmp_path / "metrics.json").read_text()
    )


def test_frozen_norms_on_random_weights_raise(tmp_path, capsys):
    assert train(tmp_path, keys=["model.norm=frozen_bn"]) == 2
    assert "frozen norms over random weights in conv1" in capsys.readouterr().err


def test_pretraining_measures_frozen_norms(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes_pretraining, "_STATISTICS_BATCHES", 2)
    keys = [
        "model.norm=frozen_bn",
        "pretrain.iterations=4",
        "pretrain.crops=40",
        "pretrain.sizes=[32, 64]",
        "solver.max_iter=1",
    ]
    assert train(tmp_path, keys=keys) == 0
    model, _ = load_detector(tmp_path / "best.pth")
    assert model.trunk.layer1[0].bn1.running_mean.abs().sum() > 0
    monkeypatch.setitem(FACTORIES, "resnet18", functools.partial(resnet18, widths=[32] * 4, stem_width=32))
    assert train(tmp_path / "gn", keys=["model.norm=gn", "pretrain.iterations=1", "pretrain.crops=10"]) == 2


def test_fine_tuning_from_a_detector(finished, tmp_path, capsys):
    assert train(tmp_path / "a", "--weights", str(finished / "best.pth"), keys=["solver.max_iter=1"]) == 0
    assert (
        run(
            "train",
            [
                "--config",
                "quickstart.yaml",
                "--output",
                str(tmp_path / "b"),
                "--weights",
                str(finished / "nothing.pth"),
                *SMALL,
            ],
        )
        == 2
    )
    assert "no weights file" in capsys.readouterr().err


@pytest.mark.parametrize("format_", ["coco", "voc"])
def test_missing_data_is_reported_before_the_model_is_built(tmp_path, capsys, monkeypatch, format_):
    monkeypatch.setattr("detection.training.run.build_model", lambda *a: pytest.fail("built a model"))
    name = {"coco": "faster_rcnn_r101.yaml", "voc": "faster_rcnn_r101_voc.yaml"}[format_]
    assert run("train", ["--config", name, "--output", str(tmp_path / "out"), f"data.root={tmp_path}/nowhere"]) == 2
    message = capsys.readouterr().err
    for part in (
        f"{tmp_path}/nowhere",
        f"prepare.py {format_}",
        f"data.format={format_} data.root=FOLDER",
        "quickstart.yaml",
    ):
        assert part in message
    assert not (tmp_path / "out").exists()


def test_predict(finished, tmp_path, capsys):
    images = tmp_path / "in"
    (images / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png", "b.jpg"):
        Image.new("RGB", (90, 70), "red").save(images / name)
    (images / "c.jpg").write_text("no image")
    arguments = [
        "--weights",
        str(finished / "best.pth"),
        str(images),
        "--output",
        str(tmp_path / "out"),
        "--batch-size",
        "2",
    ]
    assert predict(arguments) == 1
    assert "1 of 4 files could not be read" in capsys.readouterr().out
    tree = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(tree["images"]) == 3
    assert len(tree["categories"]) == 6
    assert {p.name for p in (tmp_path / "out").glob("*.jpg")} == {"a.jpg", "a-2.jpg", "b.jpg"}
    (images / "c.jpg").unlink()
    assert predict([*arguments[:3], "--output", str(tmp_path / "out2")]) == 0


def test_predict_without_images(finished, tmp_path):
    with pytest.raises(ValueError, match="no images"):
        predict(["--weights", str(finished / "best.pth"), str(tmp_path), "--output", str(tmp_path / "out")])
    with pytest.raises(FileNotFoundError, match="absent"):
        predict(["--weights", str(finished / "best.pth"), str(tmp_path / "absent"), "--output", str(tmp_path / "out")])
