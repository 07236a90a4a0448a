"""Train and evaluate a classifier with the training loop of the detector."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from backbone.recipe import RECIPES
from backbone.resnet import ResNet
from backbone.weights import load_weights, require_same_network
from detection.checkpoint.metadata import CLASSIFIER, classifier_entry
from detection.classification.augmentation import TrainDataset, train_loader
from detection.classification.config import ClassifierConfig
from detection.classification.images import EvalDataset, LabelledImages, eval_loader, open_dataset, open_datasets
from detection.classification.networks import build_network, read_classifier
from detection.classification.views import Views, mean_probabilities, view_loader
from detection.config import config_to_dict, dump_config, from_dict
from detection.ops.device import autocast
from detection.training.callbacks.evaluation import Evaluation
from detection.training.callbacks.metrics_log import MetricsLog, Row
from detection.training.loop import TrainingModule
from detection.training.precise_bn import precise_bn_statistics
from detection.training.resume import (
    LENGTH,
    MAY_CHANGE,
    NEW_RUN,
    Resumed,
    last_checkpoint,
    resume_point,
    warn_of_changes,
)
from detection.training.run_files.environment import write_provenance
from detection.training.run_files.loggers import check_loggers, make_loggers
from detection.training.run_files.run_dir import TRAINING_FILES, RunLog, move_earlier_run, read_metrics
from detection.training.schedule import in_steps, iterations
from detection.training.trainer import describe_solver, fit, run_device, step_callbacks
from detection.utils import distributed
from detection.utils.atomic_io import replacing, write_json, write_text
from detection.utils.precision import autocast_dtype
from detection.utils.progress import progress_bar
from detection.utils.settings import run_settings

_LOG = logging.getLogger(__name__)
_FILES = ("metrics.json", *TRAINING_FILES)
_METRICS = ("train_top1", "top1", "top5")


def train(config: ClassifierConfig, output: Path, *, resume: bool = False) -> dict[str, float] | None:
    """Train and evaluate a classifier; all files are written to ``output``.

    Args:
        config: of the training.
        output: the run's folder.
        resume: continue from the last checkpoint in ``output``.

    Returns:
        Top-1 and top-5 accuracy on the validation set, fractions 0..1; None without a validation set.

    Raises:
        ValueError, FileNotFoundError: invalid data, weights or checkpoint; ``output`` is then unchanged.
    """
    with RunLog() as run_log, run_settings():
        check_loggers(config.solver.loggers)
        images, val = open_datasets(config.data)
        config = dataclasses.replace(config, solver=in_steps(config.solver, len(images)))
        solver = config.solver
        rank, world = distributed.rank(), distributed.world_size()
        dataset = TrainDataset(images, config.data, config.seed)
        L.seed_everything(config.seed, verbose=False)
        checkpoint = last_checkpoint(output) if resume else None
        resumed = _check_resume(checkpoint, config) if checkpoint is not None else NEW_RUN
        if resumed.finished:
            _LOG.info("%s; its files are in %s", resumed.finished, output)
            return read_metrics(output)
        net = build_network(config.network, len(images.classes))
        if checkpoint is None and config.network.init_from is not None:
            report = load_weights(net, config.network.init_from, config.network.recipe)
            require_same_network(report)
            _LOG.info("weights %s: %s", config.network.init_from, report)
        if rank == 0:
            move_earlier_run(output, _FILES if checkpoint is None else ())
            write_text(output / "config.yaml", dump_config(config))
            run_log.write_to(output / "log.txt")
            write_provenance(output / "run.json", config.seed, resumed.step)
        _LOG.info(
            "%s: %d images of %d classes; %s, %s",
            images.name,
            len(images),
            len(images.classes),
            config.network.name,
            describe_solver(solver),
        )
        loggers = make_loggers(solver.loggers, output)
        metrics = MetricsLog(output, resumed.step, ("loss_classifier",), _METRICS, loggers) if rank == 0 else None
        checkpoints, interruption, callbacks = step_callbacks(solver, metrics, output)
        evaluator = Evaluator(config, images, val, output)
        # without a validation set, one final evaluation recomputes the statistics and saves the weights
        interval = iterations(solver.eval_every, solver.max_iter) if val is not None else 0
        evaluation = Evaluation(
            evaluator,
            "top1",
            interval,
            output,
            metrics,
            solver.early_stop,
            checkpoints,
            interruption,
            lengthened=resumed.lengthened,
        )
        callbacks += [evaluation, interruption]
        loader = train_loader(
            dataset,
            solver.batch_size,
            micro_batches=solver.accumulate,
            rank=rank,
            world=world,
            seed=config.seed,
            start=resumed.step,
        )
        module = ClassificationModule(net, config, images.classes, output)
        start_time = time.perf_counter()
        trainer = fit(module, loader, callbacks, checkpoint, loggers)
        if evaluation.done_at < trainer.global_step:
            evaluation.evaluate(trainer, module)
        _LOG.info("run finished in %.0f s; its files are in %s", time.perf_counter() - start_time, output)
        return evaluator.result


def evaluate_only(
    config: ClassifierConfig, weights: Path, output: Path, views: Views = "single"
) -> dict[str, float] | None:
    """Evaluate a classifier's weights on the configuration's validation set, and write metrics.json.

    Args:
        config: its network and data are used.
        weights: best.pth of a run, or any weights of that network with its classifier.
        output: folder of metrics.json; an existing one is moved to a subfolder.
        views: test-time views of each image (see :func:`make_views`).

    Returns:
        Top-1 and top-5 accuracy, fractions 0..1, on rank 0; None on other ranks.

    Raises:
        ValueError, FileNotFoundError: invalid data or weights, or other classes.
    """
    if config.data.val is None:
        raise ValueError("data.val is null: no validation set to evaluate on")
    val = open_dataset(config.data, "val", config.data.val)
    classifier = read_classifier(weights, network_config=config.network)
    num_classes = classifier.net.fc.out_features
    if classifier.classes not in (None, val.classes) or num_classes != len(val.classes):
        trained = ", ".join(classifier.classes) if classifier.classes else f"{num_classes} classes without names"
        raise ValueError(f"different classes:\n  {val.name}: {', '.join(val.classes)}\n  {weights}: {trained}")
    device = run_device()
    net = classifier.net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    dtype, normalise = autocast_dtype(config.solver.precision, device), RECIPES[config.network.recipe].normalise
    indices = range(distributed.rank(), len(val), distributed.world_size())  # each image once
    loader = view_loader(val, config.data, views, max(config.solver.batch_size // config.solver.accumulate, 1), indices)
    correct = torch.zeros(2, dtype=torch.int64, device=device)
    distributed.connect(device)
    with progress_bar(shown=distributed.is_leader()) as bar, autocast(device, dtype):
        task = bar.add_task("evaluating", total=len(indices))
        for groups, labels in loader:
            probabilities = mean_probabilities(net, groups, partial(prepare, normalise=normalise), device)
            correct += correct_top1_and_top5(probabilities, labels)
            bar.advance(task, len(labels))
    if distributed.is_distributed():
        dist.all_reduce(correct)
    distributed.disconnect()
    if not distributed.is_leader():
        return None
    top1, top5 = (float(count) / len(val) for count in correct)
    result = {"top1": top1, "top5": top5}
    move_earlier_run(output, ("metrics.json",))
    write_json(output / "metrics.json", result)
    _LOG.info("%s, views %s: top-1 %.4f, top-5 %.4f of %d images", val.name, views, *result.values(), len(val))
    return result


class ClassificationModule(TrainingModule):
    """Lightning module of a classifier with cross-entropy loss.

    Args:
        net: the network.
        config: of the training.
        classes: class names.
    """

    def __init__(
        self, net: ResNet, config: ClassifierConfig, classes: tuple[str, ...], output: Path | None = None
    ) -> None:
        super().__init__(net, config.solver, config.seed, output)
        self.config, self.classes = config, classes
        self.recipe = RECIPES[config.network.recipe]
        self.mixes = [
            transform(alpha=alpha, num_classes=len(classes))
            for transform, alpha in ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
            if alpha
        ]
        self.correct, self.total = torch.zeros((), dtype=torch.int64), 0

    def compute_losses(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        images, labels = batch
        images = prepare(images, self.recipe.normalise)
        if self.mixes:
            seed = generator.initial_seed()  # known on the host: one that the device draws would be a sync
            with torch.random.fork_rng(devices=[]):  # the transforms use torch's global generator
                torch.manual_seed(seed)
                images, labels = self.mixes[seed % len(self.mixes)](images, labels)
        logits = self.model(images)
        if not self.mixes:  # a mixed image has no single class
            self.correct = self.correct.to(logits.device) + (logits.detach().argmax(dim=1) == labels).sum()
            self.total += len(labels)
        return {"loss_classifier": F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)}

    def extra_metrics(self) -> dict[str, float]:
        """Return train_top1: accuracy on this rank's augmented images since the last call, before each step's update."""
        accuracy = float(self.correct) / self.total if self.total else None
        self.correct, self.total = torch.zeros_like(self.correct), 0
        return {} if accuracy is None else {"train_top1": accuracy}

    def save_weights(self, path: Path) -> None:
        with replacing(path) as part:
            torch.save(self._metadata() | {"recipe": self.recipe.name, "model": self.eval_model.state_dict()}, part)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self._metadata())

    def _metadata(self) -> dict[str, Any]:
        return {CLASSIFIER: {"format": 1, "config": config_to_dict(self.config), "classes": list(self.classes)}}


def prepare(images: Tensor, normalise: Callable[[Tensor], Tensor]) -> Tensor:
    """Convert uint8 images [N, 3, H, W] to the network's normalised float32 input in channels_last."""
    return normalise(images.float().div_(255)).contiguous(memory_format=torch.channels_last)


class Evaluator:
    """Recompute the batch norm statistics (precise BN) and evaluate, on all ranks; rank 0 writes metrics.json."""

    def __init__(
        self, config: ClassifierConfig, train: LabelledImages, val: LabelledImages | None, output: Path
    ) -> None:
        self.config, self.train, self.val, self.output = config, train, val, output
        self.normalise = RECIPES[config.network.recipe].normalise
        self.result: dict[str, float] | None = None

    def __call__(self, module: ClassificationModule) -> Row:
        net, solver = module.eval_model, self.config.solver
        dtype = autocast_dtype(solver.precision, module.device)
        batch_size = max(solver.batch_size // solver.accumulate, 1)
        count = min(self.config.statistics_images, len(self.train))
        if count:  # training does not use the running statistics, so every evaluation may overwrite them
            generator = torch.Generator().manual_seed(self.config.seed)
            indices = torch.randperm(len(self.train), generator=generator)[:count]
            subset = self.train.subset(indices.numpy())
            loader = eval_loader(EvalDataset(subset, self.config.data), batch_size, range(count))
            batches = (prepare(images.to(module.device), self.normalise) for images, _ in loader)
            recompute_statistics(net, batches, dtype=dtype)
            _LOG.debug("batch norm statistics recomputed over %d training images", count)
        if self.val is None:
            return {}
        indices_of_rank = range(distributed.rank(), len(self.val), distributed.world_size())
        loader = eval_loader(EvalDataset(self.val, self.config.data), batch_size, indices_of_rank)
        correct = count_correct(net, loader, self.normalise, module.device, dtype=dtype)
        if distributed.is_distributed():
            dist.all_reduce(correct)
        top1, top5 = (float(count) / len(self.val) for count in correct)
        self.result = {"top1": top1, "top5": top5}
        if distributed.is_leader():
            write_json(self.output / "metrics.json", self.result)
            _LOG.info("step %d: top-1 %.4f, top-5 %.4f of %d images", module.global_step, top1, top5, len(self.val))
        return dict(self.result)


def recompute_statistics(net: nn.Module, batches: Iterable[Tensor], *, dtype: torch.dtype = torch.float32) -> None:
    """Recompute the batch norm statistics of ``net`` over normalised batches [N, 3, H, W]."""
    with precise_bn_statistics(net):
        for batch in batches:
            with autocast(batch.device, dtype):
                net(batch)


@torch.no_grad()
def count_correct(
    net: nn.Module,
    loader: Iterable[Any],
    normalise: Callable[[Tensor], Tensor],
    device: torch.device,
    *,
    dtype: torch.dtype,
) -> Tensor:
    """Return the numbers of correct top-1 and top-5 predictions, int64 [2] on ``device``."""
    was_training = net.training
    net.eval()
    correct = torch.zeros(2, dtype=torch.int64, device=device)
    for images, labels in loader:
        with autocast(device, dtype):
            logits = net(prepare(images.to(device), normalise))
        correct += correct_top1_and_top5(logits.float(), labels)
    net.train(was_training)
    return correct


def correct_top1_and_top5(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many labels [N] are among the one and the five highest of scores [N, K], int64 [2] on their device."""
    hit = scores.topk(min(5, scores.shape[1])).indices == labels.to(scores.device)[:, None]
    return torch.stack((hit[:, 0].sum(), hit.any(dim=1).sum()))


def _check_resume(checkpoint: Path, config: ClassifierConfig) -> Resumed:
    """Return where the run is resumed.

    Raises:
        ValueError: the checkpoint has another network or solver, or is not a classifier's.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    entry = classifier_entry(content, str(checkpoint))
    if entry is None:
        raise ValueError(f"{checkpoint} is not a training checkpoint of a classifier")
    # through the schema, which fills in defaults of keys that are newer than the checkpoint
    old = from_dict(ClassifierConfig, entry["config"], str(checkpoint))
    before, now = config_to_dict(old), config_to_dict(config)
    top = sorted(set(now) - {"network", "solver", "data", "expects"})
    warn_of_changes(
        [f"data.{key}" for key in now["data"] if before["data"][key] != now["data"][key]]
        + [key for key in top if before[key] != now[key]],
        checkpoint,
    )
    for section in ("network", "solver"):
        changed = [k for k in now[section] if before[section][k] != now[section][k] and k not in MAY_CHANGE]
        if changed:
            raise ValueError(
                f"{checkpoint} was trained with another {section}.{changed[0]}; resume with the configuration of its run, "
                f"{checkpoint.parent / 'config.yaml'}"
            )
    lengthened = any(before["solver"][key] != now["solver"][key] for key in LENGTH)
    return resume_point(content, checkpoint, config.solver.max_iter, config.solver.early_stop, lengthened)
