"""A run: data, model, weights, training, evaluation."""

import dataclasses
import logging
import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from backbone.weights import read_weights
from detection.checkpoint.detector import Classes, load_weights, local_file, read_detector, start_weights
from detection.checkpoint.keys import is_detectron2
from detection.config import Config, SolverConfig, dump_config
from detection.data.loader import TrainSet, train_loader
from detection.data.opening import Source, describe, open_source
from detection.data.voc import read_voc
from detection.dataset_check.report import quick_check
from detection.evaluation.report import Report
from detection.modeling.build import build_model
from detection.modeling.faster_rcnn import FasterRCNN
from detection.training.auto import resolve, start_classes_at_frequencies
from detection.training.callbacks.checkpoints import Checkpoints
from detection.training.callbacks.evaluation import Evaluation
from detection.training.callbacks.metrics_log import MetricsLog, StepLog
from detection.training.callbacks.progress_line import ProgressLine
from detection.training.callbacks.recovery import Recovery
from detection.training.callbacks.signals import Interruption
from detection.training.environment import write_provenance
from detection.training.evaluator import Evaluator
from detection.training.loop import DetectionModule, TrainingModule
from detection.training.resume import check_resume, last_checkpoint
from detection.training.run_dir import EVALUATION_FILES, RUN_FILES, RunLog, set_aside
from detection.training.schedule import iterations, scaled_lr
from detection.training.shapes_pretraining import pretrain_on_crops
from detection.utils.precision import use_bf16

_LOG = logging.getLogger(__name__)
_LOSSES = ("loss_objectness", "loss_rpn_box", "loss_classifier", "loss_box")
_METRICS = ("AP", "AP50", "AP75", "VOC07_mAP", "VOC_mAP")
# in torch's messages, where a loading process is gone or hangs
_LOADING = ("is killed by signal", "exited unexpectedly", "timed out after")


def train_config(
    config: Config,
    output: Path,
    *,
    resume: bool = False,
    config_name: str = "",
    source: Source | None = None,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Any] = (),
) -> Report | None:
    """Trains and evaluates; everything that it makes lies in ``output``.

    Args:
        config: the experiment.
        output: the run's folder; an earlier run in it is moved to a subfolder unless resumed.
        resume: go on from ``output``/last.pth.
        config_name: for messages.
        source: the sets to train and evaluate on, in place of those that the configuration names.
        callbacks: of Lightning, called beside the run's own.
        loggers: of Lightning, which get every line of the metrics too.

    Returns:
        The last evaluation, or None where there is no validation set.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: data or weights are not as wanted; ``output`` is then untouched.
    """
    run_log = RunLog()
    _check_cuda_graphs(config.solver)
    given = source is not None
    source = source or open_source(config.data, config_name=config_name)
    assert source.train is not None
    classes = Classes(source.train.classes, source.train.category_ids)
    dataset = TrainSet(source.train, source.read, config.data, config.seed)
    if not len(dataset.usable()):
        raise ValueError(f"{source.train.name}: no image has an object to train on")

    config = resolve(config, dataset)
    L.seed_everything(config.seed, verbose=False)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS wants for it
        torch.use_deterministic_algorithms(True)
    checkpoint = last_checkpoint(output) if resume else None
    start = check_resume(checkpoint, config, classes) if checkpoint is not None else 0
    model = build_model(config.model, len(classes.names))
    if checkpoint is None:
        _start(model, config, classes, dataset)

    leader = int(os.environ.get("RANK", 0)) == 0
    if leader:
        set_aside(output, RUN_FILES if checkpoint is None else ())
        (output / "config.yaml").write_text(dump_config(config))
        run_log.write_to(output / "log.txt")
        write_provenance(output / "run.json", config.seed, start)
        if checkpoint is None and not given:
            quick_check(config, [records for records in (source.train, source.val) if records], output / "dataset.json")
    _LOG.info(describe(source.train, dataset.objects))
    if checkpoint is None and config.pretrain.iterations:
        _pretrain(model, config, len(classes.names))
    report = _fit(model, dataset, source, config, classes, output, checkpoint, start, callbacks, loggers)
    run_log.close()
    return report


def _start(model: FasterRCNN, config: Config, classes: Classes, dataset: TrainSet) -> None:
    """The weights that training begins with, or the refusal of a start that makes no sense."""
    if config.model.roi.class_start == "frequencies":
        # weights of a whole detector then replace it
        start_classes_at_frequencies(model, dataset, config.model.roi.foreground_fraction)
    if not config.pretrain.iterations:
        start_weights(model, config.model, classes)
        return
    if config.model.weights is not None:
        raise ValueError(
            f"the detector is to be trained on drawn crops (pretrain.iterations={config.pretrain.iterations}) and to start "
            f"from {config.model.weights}: set pretrain.iterations=0, or leave the weights out"
        )


def _pretrain(model: FasterRCNN, config: Config, num_classes: int) -> None:
    """Fills ``model`` from a twin whose norms learn and which is trained on crops: what frozen norms then hold was
    measured, as with weights from ImageNet."""
    pretrain = config.pretrain
    roi = dataclasses.replace(
        config.model.roi,
        batch_per_image=pretrain.rois,
        foreground_fraction=pretrain.foreground_fraction,
        box_loss_weight=pretrain.box_loss_weight,
    )
    twin = build_model(dataclasses.replace(config.model, norm="bn", conv5_norm="bn", freeze_at=0, roi=roi), num_classes)
    pretrain_on_crops(twin, config.pretrain, config.data, config.seed, use_bf16(config.solver.precision))
    state = {k: v for k, v in twin.state_dict().items() if not k.endswith("num_batches_tracked")}
    rest = model.load_state_dict(state, strict=False)
    lost = [k for k in (*rest.missing_keys, *rest.unexpected_keys) if not k.endswith("num_batches_tracked")]
    if lost:
        raise ValueError(
            f"pretraining on crops trains batch norms, and the model has others: {', '.join(lost[:3])}; "
            "set model.norm and model.conv5_norm to bn or frozen_bn"
        )


def _fit(
    model: FasterRCNN,
    dataset: TrainSet,
    source: Source,
    config: Config,
    classes: Classes,
    output: Path,
    checkpoint: Path | None,
    start: int,
    more_callbacks: Sequence[L.Callback],
    loggers: Sequence[Any],
) -> Report | None:
    solver, n = config.solver, config.solver.max_iter
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    _LOG.info("training on %d images, %s", len(dataset.usable()), describe_solver(solver, world))
    metrics = (
        MetricsLog(output, start, _LOSSES, (*(f"val_{name}" for name in _LOSSES), *_METRICS), loggers)
        if rank == 0
        else None
    )
    checkpoints, interruption, callbacks = step_callbacks(solver, metrics, output)
    evaluator = evaluation = None
    if source.val is not None:
        evaluator = Evaluator(config, source, output)
        _LOG.info(describe(source.val, evaluator.dataset.objects))
        every = iterations(solver.eval_every, n)
        evaluation = Evaluation(evaluator, "AP", every, output, metrics, solver.early_stop, checkpoints, interruption)
        callbacks.append(evaluation)
    callbacks += more_callbacks
    callbacks.append(interruption)  # the last: what belongs to a step is done before it ends the run
    loader = train_loader(
        dataset,
        solver.batch_size,
        micro_batches=solver.accumulate,
        rank=rank,
        world=world,
        seed=config.seed,
        start=start,
        pin=torch.cuda.is_available(),
    )
    module = DetectionModule(model, config, classes)
    module.output, module.file_of = output, dataset.records.files.__getitem__
    began = time.perf_counter()
    trainer = fit(module, loader, callbacks, checkpoint)
    if evaluation is not None and evaluation.done_at < trainer.global_step:
        # a run that stopped between its last step and its last evaluation
        evaluation.evaluate(trainer, module)
    if evaluator is None and rank == 0:
        module.save_weights(output / "best.pth")
    _LOG.info("run finished in %.0f s; its files are in %s", time.perf_counter() - began, output)
    return evaluator.report if evaluator is not None else None


def evaluate_only(
    config: Config, weights: str | Path, output: Path, model_keys: Sequence[str] = (), config_name: str = ""
) -> Report | None:
    """Evaluates a trained detector on the configuration's validation set; writes metrics.json and detections.json.

    Args:
        config: its data part and precision are used; the model is the checkpoint's, except for a detector of
            detectron2's, whose file does not say what it is.
        weights: the detector: a file, or a name in detectron2's zoo.
        output: where the files go; earlier ones are moved to a subfolder.
        model_keys: "model.…=…" entries that change the checkpoint's configuration, such as a threshold.
        config_name: for messages.

    Raises:
        ValueError: no validation set, or other classes than the detector's (lists both).
    """
    run_log = RunLog()
    _check_cuda_graphs(config.solver)
    source = open_source(config.data, train=False, config_name=config_name)
    if source.val is None:
        raise ValueError("data.val is null: there is nothing to evaluate on")
    model, classes = _trained(config, local_file(weights), model_keys, source)
    if config.data.format == "voc" and set(source.val.classes) <= set(classes.names):
        # a validation set may lack some of the detector's classes
        source = Source(None, read_voc(config.data.root, str(config.data.val), classes.names), source.read)
    classes.check(Classes(source.records.classes, ()), str(weights), source.records.name)
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if int(os.environ.get("RANK", 0)) == 0:
        set_aside(output, EVALUATION_FILES)
        run_log.write_to(output / "log.txt")
    evaluator = Evaluator(config, source, output)
    evaluator.evaluate(model.to(device).to(memory_format=torch.channels_last), device)  # type: ignore[call-overload]
    if dist.is_initialized():
        dist.destroy_process_group()
    run_log.close()
    return evaluator.report


def _trained(config: Config, weights: Path, model_keys: Sequence[str], source: Source) -> tuple[FasterRCNN, Classes]:
    file = read_weights(weights)
    if not is_detectron2(file.tensors):
        model, _, classes = read_detector(file, model_keys)
        return model, classes
    records = source.records
    model = build_model(config.model, len(records.classes))
    load_weights(model, file)
    return model.eval(), Classes(records.classes, records.category_ids)


def _check_cuda_graphs(solver: SolverConfig) -> None:
    if solver.cuda_graphs and not torch.cuda.is_available():
        raise ValueError("solver.cuda_graphs=true wants a GPU, and there is none here: leave it out")


def describe_solver(solver: SolverConfig, world: int) -> str:
    """What is done in a step and at what rate, for the log."""
    return (
        f"{solver.batch_size} a step ({world} processes x {solver.accumulate} parts), {solver.max_iter} steps in "
        f"{'bf16' if use_bf16(solver.precision) else 'float32'}; learning rate {scaled_lr(solver):g} (base_lr "
        f"{solver.base_lr:g} for {solver.reference_batch} images, {solver.lr_scaling} scaling)"
    )


def step_callbacks(
    solver: SolverConfig, metrics: MetricsLog | None, output: Path
) -> tuple[Checkpoints, Interruption, list[L.Callback]]:
    """What every run has around its steps, in order, but for the interruption, which is to be the last; ``metrics`` is that
    of rank 0, and None on the others."""
    checkpoints = Checkpoints(output, iterations(solver.checkpoint_every, solver.max_iter))
    interruption = Interruption(checkpoints)
    recovery = Recovery(output / "run.json")  # before the others: they see the weights that the run goes on with
    callbacks: list[L.Callback] = [interruption.begin, recovery, StepLog(metrics, solver.log_every), checkpoints]
    if metrics is not None:
        callbacks.append(ProgressLine(solver.max_iter, solver.log_every))
    return checkpoints, interruption, callbacks


def fit(module: TrainingModule, loader: Any, callbacks: list[L.Callback], checkpoint: Path | None) -> L.Trainer:
    """Trains, from a checkpoint on where there is one."""
    if module.solver.compile:
        for part in module.parts_to_compile():
            part.compile(dynamic=True)  # pictures differ in size and in their number of regions
    trainer = make_trainer(module.solver, callbacks, int(os.environ.get("WORLD_SIZE", 1)))
    with warnings.catch_warnings():
        # advice on workers and loggers that the configuration decides
        warnings.filterwarnings("ignore", module="lightning")
        try:
            trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
        except RuntimeError as error:
            if "DataLoader" not in str(error) or not any(sign in str(error) for sign in _LOADING):
                raise
            raise OSError(
                f"loading stopped at step {trainer.global_step + 1}: {str(error).partition(chr(10))[0]} A process that was "
                "killed had mostly no memory left: lower data.workers; one that timed out waits for a disk, or data.timeout "
                "is too short. --resume goes on from the last state"
            ) from error
    return trainer


def make_trainer(solver: SolverConfig, callbacks: list[L.Callback], world: int) -> L.Trainer:
    """Lightning's Trainer, under torchrun where that started us."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return L.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=local,
        num_nodes=max(world // local, 1),
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if use_bf16(solver.precision) else "32-true",
        max_steps=solver.max_iter,
        max_epochs=-1,
        accumulate_grad_batches=solver.accumulate,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
