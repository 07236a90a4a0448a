"""Training and evaluation runs: data, model, weights, training, evaluation."""

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch

from backbone.weights import Weights, read_weights
from detection.checkpoint.detector import load_weights, local_file, read_detector
from detection.checkpoint.keys import is_detectron2
from detection.checkpoint.metadata import Classes, read_metadata
from detection.checkpoint.start import start_weights
from detection.config import Config, SolverConfig, config_to_dict, dump_config
from detection.data.annotations import why_nothing_to_train_on
from detection.data.formats import numbers_classes
from detection.data.loader import TrainSet, train_loader
from detection.data.opening import Source, describe, open_source
from detection.data.ram import ImagesInMemory
from detection.data.recognise import find_data
from detection.data.repeat_factors import describe as describe_factors
from detection.data.splitting.split import FILE as SPLIT_FILE
from detection.dataset_check.report import quick_check
from detection.inference.runtimes import ExportedDetector
from detection.modeling.build import build_model
from detection.modeling.faster_rcnn import FasterRCNN
from detection.training.auto import resolve, start_classes_at_frequencies
from detection.training.callbacks.evaluation import Evaluation
from detection.training.callbacks.metrics_log import MetricsLog
from detection.training.detection_module import DetectionModule
from detection.training.evaluator import Evaluator
from detection.training.resume import NEW_RUN, Resumed, check_resume, last_checkpoint
from detection.training.run_files.environment import write_provenance
from detection.training.run_files.loggers import check_loggers, make_loggers
from detection.training.run_files.run_dir import EVALUATION_FILES, RUN_FILES, RunLog, move_earlier_run, read_metrics
from detection.training.schedule import iterations
from detection.training.shapes_pretraining import pretrain_on_crops
from detection.training.trainer import describe_solver, fit, run_device, step_callbacks
from detection.utils.atomic_io import write_text
from detection.utils.distributed import connect, disconnect, is_leader, local_world_size, rank, share, world_size
from detection.utils.settings import run_settings, use_deterministic_algorithms

_LOG = logging.getLogger(__name__)
_LOSSES = ("loss_objectness", "loss_rpn_box", "loss_classifier", "loss_box")
_METRICS = ("AP", "AP50", "AP75", "VOC07_mAP", "VOC_mAP")


@dataclass(frozen=True)
class Components:
    """Objects that :func:`detection.train` passes to a run, in place of the configuration's or in addition.

    Attributes:
        source: datasets for training and validation.
        model: the detector, with its initial weights.
        callbacks: additional Lightning callbacks.
        loggers: additional Lightning loggers.
    """

    source: Source | None = None
    model: FasterRCNN | None = None
    callbacks: Sequence[L.Callback] = ()
    loggers: Sequence[Any] = ()


def train_config(
    config: Config, output: Path, *, resume: bool = False, config_name: str = "", components: Components | None = None
) -> dict[str, Any] | None:
    """Train and evaluate a detector; all files of the run are written to ``output``.

    Args:
        config: of the run.
        output: the run's folder; an earlier run in it is moved to a subfolder unless resumed.
        resume: resume from ``output``/last.pth.
        config_name: for messages.
        components: from Python.

    Returns:
        The last evaluation's metrics.json, or None without a validation set.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: invalid or missing data or weights; ``output`` is then unchanged.
    """
    components = components or Components()
    with RunLog() as run_log, run_settings():
        _check_cuda_graphs(config.solver)
        check_loggers(config.solver.loggers)
        if components.model is not None:
            config = _with_channels(config, components.model.in_channels)
        channels = config.model.in_channels
        if components.source is None:
            config = dataclasses.replace(config, data=find_data(config.data))
        split_file = output / SPLIT_FILE if resume else None
        source = components.source or open_source(
            config.data, config_name=config_name, split_file=split_file, channels=channels
        )
        assert source.train is not None
        if config.data.cache == "ram":
            kept = [records for records in (source.train, source.val) if records is not None]
            source = dataclasses.replace(source, read=ImagesInMemory(source.read, kept, channels, local_world_size()))
        assert source.train is not None
        classes = Classes(source.train.classes, source.train.category_ids)
        dataset = TrainSet(source.train, source.read, config.data, config.seed)
        if not len(dataset.usable()):
            reason = why_nothing_to_train_on(source.train, dataset.objects)
            raise ValueError(f"{source.train.name}: no image with objects to train on: {reason}")

        config = resolve(config, dataset)
        L.seed_everything(config.seed, verbose=False)
        if config.deterministic:
            use_deterministic_algorithms()
        checkpoint = last_checkpoint(output) if resume else None
        resumed = check_resume(checkpoint, config, classes) if checkpoint is not None else NEW_RUN
        if resumed.finished:
            _LOG.info("%s; its files are in %s", resumed.finished, output)
            return read_metrics(output)
        model = _build(config, classes, dataset, components.model, new=checkpoint is None)

        if is_leader():
            move_earlier_run(output, RUN_FILES if checkpoint is None else ())
            write_text(output / "config.yaml", dump_config(config))
            run_log.write_to(output / "log.txt")
            write_provenance(output / "run.json", config.seed, resumed.step)
            if source.split is not None and not (output / SPLIT_FILE).exists():
                source.split.write(output / SPLIT_FILE)
            if checkpoint is None and components.source is None:
                datasets = [records for records in (source.train, source.val) if records]
                quick_check(config, datasets, output / "dataset.json", output / SPLIT_FILE)
        _LOG.info(describe(source.train, dataset.objects))
        if checkpoint is None and config.pretrain.iterations:
            _pretrain(model, config, len(classes.names))
        return _fit(model, dataset, source, config, classes, output, checkpoint, resumed, components)


def _build(config: Config, classes: Classes, dataset: TrainSet, model: FasterRCNN | None, new: bool) -> FasterRCNN:
    """Return the model, that of a new run with its initial weights."""
    if model is not None:
        if model.roi_head.num_classes != len(classes.names):
            raise ValueError(
                f"the model has {model.roi_head.num_classes} classes and the dataset {len(classes.names)}: "
                f"{', '.join(classes.names)}"
            )
        if config.pretrain.iterations:
            raise ValueError(
                f"pretrain.iterations={config.pretrain.iterations} cannot be used with model=: set it to 0"
            )
        return model
    model = build_model(config.model, len(classes.names))
    if new:
        initialise(model, config, classes, dataset)
    return model


def initialise(model: FasterRCNN, config: Config, classes: Classes, dataset: TrainSet) -> None:
    """Load the initial weights of a new run.

    Raises:
        ValueError: pretraining and weights are both set.
    """
    if config.model.roi.class_start == "frequencies":
        # overwritten where weights of a whole detector are loaded
        start_classes_at_frequencies(model, dataset, config.model.roi.foreground_fraction)
    if not config.pretrain.iterations:
        start_weights(model, config.model, classes)
        return
    if config.model.weights is not None:
        raise ValueError(
            f"pretrain.iterations={config.pretrain.iterations} and weights {config.model.weights} are mutually exclusive: "
            "set pretrain.iterations=0, or omit the weights"
        )


def _pretrain(model: FasterRCNN, config: Config, num_classes: int) -> None:
    """Pretrain a copy of ``model`` with trainable batch norms on crops, and load its weights into ``model``: frozen norms
    then have measured statistics, as with ImageNet weights."""
    pretrain = config.pretrain
    roi = dataclasses.replace(
        config.model.roi,
        batch_per_image=pretrain.rois,
        foreground_fraction=pretrain.foreground_fraction,
        box_loss_weight=pretrain.box_loss_weight,
    )
    pretrained = build_model(
        dataclasses.replace(config.model, norm="bn", conv5_norm="bn", freeze_at=0, roi=roi), num_classes
    )
    if is_leader():  # the others wait, and then read its weights
        pretrain_on_crops(pretrained, config.pretrain, config.data, config.seed, run_device(), config.solver.precision)
    pretrained.cpu()
    share([*pretrained.state_dict().values()], "pretraining")
    state_dict = {k: v for k, v in pretrained.state_dict().items() if not k.endswith("num_batches_tracked")}
    result = model.load_state_dict(state_dict, strict=False)
    unmatched = [k for k in (*result.missing_keys, *result.unexpected_keys) if not k.endswith("num_batches_tracked")]
    if unmatched:
        raise ValueError(
            f"pretraining on crops requires batch norms, the model has other norms: {', '.join(unmatched[:3])}; "
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
    resumed: Resumed,
    components: Components,
) -> dict[str, Any] | None:
    solver = config.solver
    _LOG.info("training on %d images, %s", len(dataset.usable()), describe_solver(solver))
    if (factors := dataset.repeat_factors()) is not None:
        _LOG.info("data.repeat_threshold=%g: %s", config.data.repeat_threshold, describe_factors(factors))
    metrics, loggers = None, make_loggers(solver.loggers, output, components.loggers)
    for logger in loggers:
        logger.log_hyperparams(config_to_dict(config))
    if is_leader():
        names = (*(f"val_{name}" for name in _LOSSES), *_METRICS)
        metrics = MetricsLog(output, resumed.step, _LOSSES, names, loggers)
    checkpoints, interruption, callbacks = step_callbacks(solver, metrics, output)
    evaluator = evaluation = None
    if source.val is not None:
        evaluator = Evaluator(config, source, output)
        _LOG.info(describe(source.val, evaluator.dataset.objects))
        evaluation = Evaluation(
            evaluator,
            "AP",
            iterations(solver.eval_every, solver.max_iter),
            output,
            metrics,
            solver.early_stop,
            checkpoints,
            interruption,
            lengthened=resumed.lengthened,
            draw=evaluator.draw,
        )
        callbacks.append(evaluation)
    callbacks += components.callbacks
    callbacks.append(interruption)  # the last: all other callbacks of a step run before it ends the run
    if isinstance(source.read, ImagesInMemory):
        source.read.fill()  # before the loaders' workers are forked
    loader = train_loader(
        dataset,
        solver.batch_size,
        micro_batches=solver.accumulate,
        rank=rank(),
        world=world_size(),
        seed=config.seed,
        start=resumed.step,
        pin=torch.cuda.is_available(),
    )
    name = None if components.model is None else type(components.model.trunk).__qualname__
    module = DetectionModule(model, config, classes, output, dataset.records.files.__getitem__, name)
    started = time.perf_counter()
    trainer = fit(module, loader, callbacks, checkpoint, loggers)
    if evaluation is not None and evaluation.done_at < trainer.global_step:
        # a run that was stopped between its last step and its last evaluation
        evaluation.evaluate(trainer, module)
    if evaluator is not None:
        evaluator.write_page()
    if evaluator is None and is_leader():
        module.save_weights(output / "best.pth")
    _LOG.info("run finished in %.0f s; its files are in %s", time.perf_counter() - started, output)
    report = evaluator.report if evaluator is not None else None
    return None if report is None else report.to_json()


def evaluate_only(
    config: Config,
    weights: str | Path | Weights | ExportedDetector,
    output: Path,
    model_keys: Sequence[str] = (),
    config_name: str = "",
    given: FasterRCNN | None = None,
    others: Sequence[str | Path] = (),
) -> dict[str, Any] | None:
    """Evaluate a trained detector on the configuration's validation set; write metrics.json and detections.json.

    Args:
        config: its data section and precision are used; the model configuration is the checkpoint's, except for a
            detectron2 checkpoint, which does not contain one.
        weights: checkpoint file, or a name in detectron2's model zoo, or the content of one; or an exported detector.
        output: folder for the files; earlier ones are moved to a subfolder.
        model_keys: "model.…=…" overrides of the checkpoint's configuration, such as a threshold.
        config_name: for messages.
        given: the model to fill, where its backbone or head was a module of the user's own.
        others: files of further detectors, for an ensemble (ResNet paper, appendix B).

    Returns:
        The content of metrics.json on rank 0, None on other ranks.

    Raises:
        ValueError: no validation set, or its classes differ from the detector's (lists both).
    """
    with RunLog() as run_log, run_settings():
        _check_cuda_graphs(config.solver)
        if config.data.val is None:
            raise ValueError("data.val is null: evaluation needs a validation set")
        config = dataclasses.replace(config, data=find_data(config.data))
        model: FasterRCNN | ExportedDetector
        file: Weights | None = None
        if not isinstance(weights, ExportedDetector):
            file = weights if isinstance(weights, Weights) else read_weights(local_file(weights))
            if given is not None:
                config = _with_channels(config, given.in_channels)
            elif (metadata := read_metadata(file)) is not None:
                config = _with_channels(config, metadata.config(file.source, model_keys).model.in_channels)
        where = weights.source if isinstance(weights, Weights) else str(weights)
        source = open_source(
            config.data,
            train=False,
            config_name=config_name,
            split_file=Path(where).parent / SPLIT_FILE,
            channels=config.model.in_channels,
        )
        assert source.val is not None
        if isinstance(weights, ExportedDetector):
            model, classes, where = weights, weights.info.labels, str(weights.path)
        else:
            assert file is not None
            model, classes = _load_detector(config, file, model_keys, source, given)
        ensemble = [_load_member(other, model, classes, where) for other in others]
        # the validation set may have some of the detector's classes, in another order
        val = source.val.with_classes(classes.names, renumber=numbers_classes(config.data.format))
        source = Source(None, val, source.read)
        classes.check(Classes(source.records.classes, ()), where, source.records.name)
        device = run_device()
        connect(device)
        if is_leader():
            move_earlier_run(output, EVALUATION_FILES)
            run_log.write_to(output / "log.txt")
        evaluator = Evaluator(config, source, output)
        for member in (model, *ensemble):
            member.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        evaluator.evaluate(model, device, ensemble)
        disconnect()
        evaluator.draw()
        evaluator.write_page()
        return None if evaluator.report is None else evaluator.report.to_json()


def _load_member(path: str | Path, first: FasterRCNN | ExportedDetector, classes: Classes, where: str) -> FasterRCNN:
    """Return a further detector of an ensemble.

    Raises:
        ValueError: an exported file, or other classes; lists both.
    """
    if isinstance(first, ExportedDetector):
        raise ValueError(f"{where} is an exported file: ensembles are of best.pth")
    model, _, own = read_detector(read_weights(local_file(path)))
    if own.names != classes.names:
        raise ValueError(
            f"an ensemble is of detectors of the same classes:\n  {where}: {', '.join(classes.names)}\n  {path}: "
            f"{', '.join(own.names)}"
        )
    return model


def _with_channels(config: Config, channels: int) -> Config:
    """Return the configuration with the channels of a detector that it does not build."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, in_channels=channels))


def _load_detector(
    config: Config, file: Weights, model_keys: Sequence[str], source: Source, given: FasterRCNN | None
) -> tuple[FasterRCNN, Classes]:
    if not is_detectron2(file.tensors):
        model, _, classes = read_detector(file, model_keys, given)
        return model, classes
    records = source.records
    model = build_model(config.model, len(records.classes))
    load_weights(model, file)
    return model.eval(), Classes(records.classes, records.category_ids)


def _check_cuda_graphs(solver: SolverConfig) -> None:
    if solver.cuda_graphs and not torch.cuda.is_available():
        raise ValueError("solver.cuda_graphs=true requires a GPU, and none is available: set it to false")
