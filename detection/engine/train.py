"""A run: data, model, weights, training, evaluation, and its folder."""

import json
import logging
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from PIL import Image

from detection.build import build_model
from detection.config import Config
from detection.config_io import config_from_dict, dump_config
from detection.data.loader import EvalSet, TrainSet, eval_loader, train_loader
from detection.data.source import Source, describe, open_source
from detection.data.voc import read_voc
from detection.engine.callbacks import Checkpoints, Evaluation, MetricsLog, ProgressLine, Row, StepLog
from detection.engine.checkpoint import CARD, Classes, read_detector, save_detector, start_weights
from detection.engine.inference import detect, validation_losses
from detection.engine.module import DetectionModule
from detection.engine.precision import use_bf16
from detection.engine.progress import progress_bar
from detection.engine.schedule import iterations, scaled_lr
from detection.evaluation.pictures import Drawn, beside, contact_sheet, draw
from detection.evaluation.report import Report, evaluate, table, write_report
from detection.pretraining.crops import pretrain_on_crops

_LOG = logging.getLogger(__name__)
_PICTURES, _DRAWN_SCORE = 8, 0.5
_RUN_FILES = (
    "config.yaml",
    "metrics.json",
    "metrics.jsonl",
    "metrics.csv",
    "per_class.csv",
    "last.pth",
    "best.pth",
    "detections.json",
    "ground_truth.json",
    "log.txt",
    "pictures",
    "tensorboard",
)


def train(config: Config, output: Path, *, resume: bool = False, config_name: str = "") -> Report | None:
    """Trains and evaluates; everything that it makes lies in ``output``.

    Args:
        config: the experiment.
        output: the run's folder; an earlier run in it is moved to a subfolder unless resumed.
        resume: go on from ``output``/last.pth.
        config_name: for messages.

    Returns:
        The last evaluation, or None where the configuration has no validation set.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: data or weights are not as wanted, before anything is built.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    source = open_source(config.data, config_name=config_name)
    if source.train is None:
        raise ValueError("no training set")
    checkpoint = output / "last.pth" if resume else None
    if checkpoint is not None and not checkpoint.exists():
        _LOG.warning("--resume: there is no %s, the run begins at step 0", checkpoint)
        checkpoint = None
    if rank == 0:
        _prepare(output, keep=checkpoint is not None)
        (output / "config.yaml").write_text(dump_config(config))
    _log_to(output if rank == 0 else None)
    classes = Classes(source.train.classes, source.train.category_ids)

    L.seed_everything(config.seed, verbose=False)
    model = build_model(config.model, len(classes.names))
    start = 0
    if checkpoint is not None:
        start = _check_resume(checkpoint, config, classes)
    else:
        if config.pretrain.iterations:
            pretrain_on_crops(
                model.trunk, model.roi_head.conv5, config.pretrain, config.data, config.seed, model.recipe
            )
        else:
            start_weights(model, config.model, classes)
    module = DetectionModule(model, config, classes)
    dataset = TrainSet(source.train, source.read, config.data, config.seed)
    if not len(dataset.usable()):
        raise ValueError(f"{source.train.name}: no image has an object to train on")
    solver = config.solver
    _LOG.info(describe(source.train, config.data.keep_difficult))
    _LOG.info(
        "training on %d images, %d a step (%d processes x %d parts), %d steps in %s; learning rate %g = base_lr %g x %d / 16",
        len(dataset.usable()),
        solver.batch_size,
        world,
        solver.accumulate,
        solver.max_iter,
        "bf16" if use_bf16(solver.precision) else "float32",
        scaled_lr(solver),
        solver.base_lr,
        solver.batch_size,
    )
    log = MetricsLog(output, start) if rank == 0 else None
    n = solver.max_iter
    callbacks: list[L.Callback] = [StepLog(log, solver.log_every)]
    evaluation = None
    if source.val is not None:
        evaluation = _Evaluator(config, source, output)
        callbacks.append(Evaluation(evaluation, iterations(solver.eval_every, n), output, log, solver.early_stop))
    callbacks.append(Checkpoints(output, iterations(solver.checkpoint_every, n)))
    if rank == 0:
        callbacks.append(ProgressLine(n, solver.log_every))
    trainer = make_trainer(config, callbacks, world)
    loader = train_loader(
        dataset,
        solver.batch_size,
        parts=solver.accumulate,
        rank=rank,
        world=world,
        seed=config.seed,
        start=start,
        pin=torch.cuda.is_available(),
    )
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", module="lightning"
        )  # advice on workers and loggers that the configuration decides
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    if evaluation is None and rank == 0:
        save_detector(output / "best.pth", module.detector, config, classes)
    _LOG.info("run finished in %.0f s; its files are in %s", time.perf_counter() - began, output)
    return evaluation.report if evaluation is not None else None


def evaluate_only(config: Config, weights: Path, output: Path, *, config_name: str = "") -> Report:
    """Evaluates a trained detector on the configuration's validation set; writes metrics.json and detections.json.

    Raises:
        ValueError: no validation set, or other classes than the detector's (lists both).
    """
    source = open_source(config.data, train=False, config_name=config_name)
    if source.val is None:
        raise ValueError("data.val is null: there is nothing to evaluate on")
    output.mkdir(parents=True, exist_ok=True)
    _log_to(output)
    model, _, classes = read_detector(weights)
    if config.data.format == "voc" and set(source.val.classes) <= set(classes.names):
        # a validation set may lack some of the detector's classes
        source = Source(None, read_voc(config.data.root, str(config.data.val), classes.names), source.read)
    classes.check(Classes(source.records.classes, ()), str(weights), source.records.name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    evaluator = _Evaluator(config, source, output)
    return evaluator.evaluate(model.to(device).to(memory_format=torch.channels_last), device)  # type: ignore[call-overload]


def make_trainer(config: Config, callbacks: list[L.Callback], world: int) -> L.Trainer:
    """Lightning's Trainer for a configuration, under torchrun where that started us."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return L.Trainer(
        accelerator="auto",
        devices=local,
        num_nodes=max(world // local, 1),
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if use_bf16(config.solver.precision) else "32-true",
        max_steps=config.solver.max_iter,
        max_epochs=-1,
        accumulate_grad_batches=config.solver.accumulate,
        gradient_clip_val=config.solver.clip_norm,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


class _Evaluator:
    """Runs the detector over the validation set, judges it, writes the files, prints the table on rank 0."""

    def __init__(self, config: Config, source: Source, output: Path) -> None:
        assert source.val is not None
        self.config, self.records, self.output = config, source.val, output
        self.dataset = EvalSet(source.val, source.read, config.data)
        self.truth = source.val.to_coco()
        self.report: Report | None = None

    def __call__(self, module: DetectionModule) -> Row:
        detector, device = module.detector, module.device
        report = self.evaluate(detector, device)
        losses: dict[str, float] = {}
        if self.config.solver.val_loss:
            losses = validation_losses(detector, self._loader(), device, self.config.seed)
        return {**report.metrics, **losses}

    def _loader(self) -> Any:
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        return eval_loader(self.dataset, rank=rank, world=world, pin=torch.cuda.is_available())

    def evaluate(self, detector: Any, device: torch.device) -> Report:
        """Metrics of a detector on ``device``; the files of the run's folder are rank 0's."""
        began = time.perf_counter()
        loader = self._loader()
        with progress_bar() as bar:
            task = bar.add_task("evaluating", total=len(loader))
            results = detect(
                detector,
                loader,
                self.records,
                device,
                bf16=use_bf16(self.config.solver.precision),
                names=None if self.config.data.format == "coco" else self.records.classes,
                tick=lambda: bar.advance(task),
            )
        report = self.report = evaluate(self.truth, results)
        if int(os.environ.get("RANK", 0)) == 0:
            _LOG.info(
                "evaluated %d images in %.1f s\n%s", len(self.records), time.perf_counter() - began, table(report)
            )
            write_report(report, self.output)
            self._draw(results)
            (self.output / "detections.json").write_text(json.dumps(results))
            if self.config.data.format != "coco":
                # a results file means little without the annotations that it is to be held against
                (self.output / "ground_truth.json").write_text(json.dumps(self.truth))
        return report

    def _draw(self, results: list[dict[str, Any]]) -> None:
        """pictures/: the first images with the truth on the left and the detections on the right."""
        folder = self.output / "pictures"
        folder.mkdir(exist_ok=True)
        records = self.records
        label_of = {c: k for k, c in enumerate(records.category_ids, 1)}
        sheets = []
        for i in range(min(_PICTURES, len(records))):
            picture = self.dataset.read(records.files[i])
            where = records.objects(i)
            truth = Drawn(records.boxes[where].tolist(), records.labels[where].tolist())
            mine = [d for d in results if d["image_id"] == records.image_ids[i] and d["score"] >= _DRAWN_SCORE]
            boxes = [[x, y, x + w, y + h] for x, y, w, h in (d["bbox"] for d in mine)]
            found = Drawn(boxes, [label_of[d["category_id"]] for d in mine], [d["score"] for d in mine])
            titles = ("truth", f"detections (score at least {_DRAWN_SCORE})")
            sheets.append(beside(draw(picture, truth, records.classes), draw(picture, found, records.classes), titles))
            Image.fromarray(sheets[-1]).save(folder / f"{i:02d}.png")
        Image.fromarray(contact_sheet(sheets, columns=2)).save(folder / "all.png")
        _LOG.info("pictures of the truth beside the detections are in %s (all.png has them together)", folder)


def _prepare(output: Path, keep: bool) -> None:
    """Makes the run's folder; an earlier run's files go to a subfolder, nothing is overwritten."""
    output.mkdir(parents=True, exist_ok=True)
    earlier = [output / name for name in _RUN_FILES if (output / name).exists()]
    if keep or not earlier:
        return
    number = 1
    while (output / f"earlier-{number}").exists():
        number += 1
    aside = output / f"earlier-{number}"
    aside.mkdir()
    for path in earlier:
        shutil.move(path, aside / path.name)
    _LOG.warning("%s held a run; its files are now in %s (--resume would have gone on with it)", output, aside)


def _check_resume(checkpoint: Path, config: Config, classes: Classes) -> int:
    """The step to go on from.

    Raises:
        ValueError: the checkpoint is of another model or of other classes, or already finished.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    about = content[CARD]
    classes.check(Classes(tuple(about["classes"]), tuple(about["category_ids"])), "the data", str(checkpoint))
    before = config_from_dict(about["config"], str(checkpoint))
    if before.model != config.model:
        raise ValueError(
            f"{checkpoint} is of another model; resume with the configuration beside it, {checkpoint.parent / 'config.yaml'}"
        )
    step = int(content["global_step"])
    if before != config:
        _LOG.warning("the configuration differs from the one that %s was begun with", checkpoint)
    _LOG.info("resuming from %s at step %d", checkpoint, step)
    return step


def _log_to(folder: Path | None) -> None:
    """Messages to the screen and to log.txt; quiet on further ranks."""
    root = logging.getLogger("detection")
    backbone = logging.getLogger("backbone")
    for logger in (root, backbone):
        for handler in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(logging.INFO if folder is not None else logging.ERROR)
    if folder is not None:
        handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(handler)
        backbone.addHandler(handler)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
