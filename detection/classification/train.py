"""A classifier's run on the detector's engine: pictures, network, training, statistics, evaluation."""

import json
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
from detection.checkpoint.metadata import CLASSIFIER
from detection.classification.config import ClassifierConfig
from detection.classification.images import (
    EvalPictures,
    Pictures,
    TrainPictures,
    eval_loader,
    open_pictures,
    open_set,
    train_loader,
)
from detection.classification.networks import build_network, read_classifier
from detection.classification.views import Views, score, view_loader
from detection.config import config_to_dict, dump_config, from_dict
from detection.ops.device import autocast
from detection.training.callbacks.evaluation import Evaluation
from detection.training.callbacks.metrics_log import MetricsLog, Row
from detection.training.loop import TrainingModule
from detection.training.output.environment import write_provenance
from detection.training.output.loggers import check_loggers, make_loggers
from detection.training.output.run_dir import TRAINING_FILES, RunLog, move_earlier_run
from detection.training.precise_bn import measuring_statistics
from detection.training.resume import LENGTH, MAY_CHANGE, Resumed, last_checkpoint, resumed
from detection.training.schedule import iterations
from detection.training.trainer import describe_solver, fit, step_callbacks
from detection.utils import distributed
from detection.utils.atomic_io import replacing
from detection.utils.precision import use_bf16
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
_FILES = ("metrics.json", *TRAINING_FILES)
_METRICS = ("train_top1", "top1", "top5")


def train(config: ClassifierConfig, output: Path, *, resume: bool = False) -> dict[str, float] | None:
    """Trains and evaluates; everything that it makes lies in ``output``.

    Returns:
        Shares of the validation pictures whose class is the first (top1) or among the first five (top5); None without
        such pictures.

    Raises:
        ValueError, FileNotFoundError: data, weights or checkpoint are not as wanted; ``output`` is then untouched.
    """
    run_log = RunLog()
    check_loggers(config.solver.loggers)
    pictures, val = open_pictures(config.data)
    solver = config.solver
    rank, world = distributed.rank(), distributed.world_size()
    dataset = TrainPictures(pictures, config.data, config.seed)
    L.seed_everything(config.seed, verbose=False)
    checkpoint = last_checkpoint(output) if resume else None
    resumed = _check_resume(checkpoint, config) if checkpoint is not None else None
    start = resumed.step if resumed is not None else 0
    if resumed is not None and resumed.finished:
        _LOG.info("%s; its files are in %s", resumed.finished, output)
        run_log.close()
        metrics_file = output / "metrics.json"
        return json.loads(metrics_file.read_text()) if metrics_file.exists() else None
    net = build_network(config.network, len(pictures.classes))
    if checkpoint is None and config.network.init_from is not None:
        report = load_weights(net, config.network.init_from, config.network.recipe)
        require_same_network(report)
        _LOG.info("weights %s: %s", config.network.init_from, report)
    if rank == 0:
        move_earlier_run(output, _FILES if checkpoint is None else ())
        (output / "config.yaml").write_text(dump_config(config))
        run_log.write_to(output / "log.txt")
        write_provenance(output / "run.json", config.seed, start)
    _LOG.info(
        "%s: %d pictures of %d classes; %s, %s",
        pictures.name,
        len(pictures),
        len(pictures.classes),
        config.network.name,
        describe_solver(solver),
    )
    loggers = make_loggers(solver.loggers, output) if rank == 0 else []
    metrics = MetricsLog(output, start, ("loss_classifier",), _METRICS, loggers) if rank == 0 else None
    checkpoints, interruption, callbacks = step_callbacks(solver, metrics, output)
    evaluator = Evaluator(config, pictures, val, output)
    # without validation pictures the statistics are still to be measured, and the weights to be kept
    every = iterations(solver.eval_every, solver.max_iter) if val is not None else 0
    evaluation = Evaluation(
        evaluator,
        "top1",
        every,
        output,
        metrics,
        solver.early_stop,
        checkpoints,
        interruption,
        lengthened=resumed is not None and resumed.lengthened,
    )
    callbacks += [evaluation, interruption]
    loader = train_loader(
        dataset, solver.batch_size, parts=solver.accumulate, rank=rank, world=world, seed=config.seed, start=start
    )
    module = ClassificationModule(net, config, pictures.classes, output)
    began = time.perf_counter()
    trainer = fit(module, loader, callbacks, checkpoint, loggers)
    if evaluation.done_at < trainer.global_step:
        evaluation.evaluate(trainer, module)
    _LOG.info("run finished in %.0f s; its files are in %s", time.perf_counter() - began, output)
    run_log.close()
    return evaluator.result


def evaluate_only(config: ClassifierConfig, weights: Path, output: Path, views: Views = "single") -> dict[str, float]:
    """Judges a classifier's weights on the configuration's validation pictures, and writes metrics.json.

    Args:
        config: its network and data are used.
        weights: best.pth of a run, or any weights of that network with its classifier.
        output: where the file goes; an earlier one is moved to a subfolder.
        views: what the network is shown of a picture (see :func:`make_views`).

    Returns:
        Shares of the pictures whose class is the first (top1), or among the first five (top5).

    Raises:
        ValueError, FileNotFoundError: data or weights are not as wanted.
    """
    if config.data.val is None:
        raise ValueError("data.val is null: there is nothing to evaluate on")
    val = open_set(config.data, "val", config.data.val)
    classifier = read_classifier(weights, wanted=config.network)
    count = classifier.net.fc.out_features
    if classifier.classes not in (None, val.classes) or count != len(val.classes):
        theirs = ", ".join(classifier.classes) if classifier.classes else f"{count} classes without names"
        raise ValueError(f"different classes:\n  {val.name}: {', '.join(val.classes)}\n  {weights}: {theirs}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = classifier.net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    bf16, normalise = use_bf16(config.solver.precision), RECIPES[config.network.recipe].normalise
    right = torch.zeros(2, dtype=torch.float64)
    loader = view_loader(val, config.data, views)
    with progress_bar() as bar, autocast(device, bf16):
        task = bar.add_task("evaluating", total=len(val))
        for shown, label in loader:
            best = (
                score(net, shown, partial(prepare, normalise=normalise), device).topk(min(5, len(val.classes))).indices
            )
            right += torch.tensor((int(best[0]) == label, label in best.tolist()))
            bar.advance(task)
    result = {"top1": float(right[0]) / len(val), "top5": float(right[1]) / len(val)}
    move_earlier_run(output, ("metrics.json",))
    (output / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
    _LOG.info("%s, views %s: top-1 %.4f, top-5 %.4f of %d pictures", val.name, views, *result.values(), len(val))
    return result


class ClassificationModule(TrainingModule):
    """A classifier's training: cross-entropy over the classes."""

    def __init__(
        self, net: ResNet, config: ClassifierConfig, classes: tuple[str, ...], output: Path | None = None
    ) -> None:
        super().__init__(net, config.solver, config.seed, output)
        self.config, self.classes = config, classes
        self.recipe = RECIPES[config.network.recipe]
        self.mixes = [
            kind(alpha=alpha, num_classes=len(classes))
            for kind, alpha in ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
            if alpha
        ]
        self.right, self.seen = torch.zeros((), dtype=torch.int64), 0

    def compute_losses(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        images, labels = batch
        images = prepare(images, self.recipe.normalise)
        if self.mixes:
            seed = int(torch.randint(2**62, (1,), generator=generator, device=self.device))
            with torch.random.fork_rng(devices=[]):  # these draw from torch's own generator alone
                torch.manual_seed(seed)
                images, labels = self.mixes[seed % len(self.mixes)](images, labels)
        logits = self.model(images)
        if not self.mixes:  # a mixed picture has no one class
            self.right = self.right.to(logits.device) + (logits.detach().argmax(dim=1) == labels).sum()
            self.seen += len(labels)
        return {"loss_classifier": F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)}

    def extra_metrics(self) -> dict[str, float]:
        """train_top1: share of this process's augmented pictures whose class was the first, before each step's update."""
        share = float(self.right) / self.seen if self.seen else None
        self.right, self.seen = torch.zeros_like(self.right), 0
        return {} if share is None else {"train_top1": share}

    def save_weights(self, path: Path) -> None:
        with replacing(path) as part:
            torch.save(self._card() | {"recipe": self.recipe.name, "model": self.eval_model.state_dict()}, part)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint.update(self._card())

    def _card(self) -> dict[str, Any]:
        return {CLASSIFIER: {"format": 1, "config": config_to_dict(self.config), "classes": list(self.classes)}}


def prepare(images: Tensor, normalise: Callable[[Tensor], Tensor]) -> Tensor:
    """uint8 [N, 3, H, W] to what the network takes."""
    return normalise(images.float().div_(255)).contiguous(memory_format=torch.channels_last)


class Evaluator:
    """Measures the norms anew for the weights as they are, and judges them, on all ranks; rank 0 writes metrics.json."""

    def __init__(self, config: ClassifierConfig, train: Pictures, val: Pictures | None, output: Path) -> None:
        self.config, self.train, self.val, self.output = config, train, val, output
        self.normalise = RECIPES[config.network.recipe].normalise
        self.result: dict[str, float] | None = None

    def __call__(self, module: ClassificationModule) -> Row:
        net, solver = module.eval_model, self.config.solver
        bf16 = use_bf16(solver.precision)
        batch_size = max(solver.batch_size // solver.accumulate, 1)
        count = min(self.config.statistics_images, len(self.train))
        if count:  # training does not look at them, so that they can be had at every evaluation
            chosen = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.config.seed))[:count]
            part = self.train.some(chosen.numpy())
            loader = eval_loader(EvalPictures(part, self.config.data), batch_size, range(count))
            batches = (prepare(images.to(module.device), self.normalise) for images, _ in loader)
            recompute_statistics(net, batches, bf16=bf16)
            _LOG.debug("norms measured anew over %d training pictures", count)
        if self.val is None:
            return {}
        mine = range(distributed.rank(), len(self.val), distributed.world_size())
        loader = eval_loader(EvalPictures(self.val, self.config.data), batch_size, mine)
        right = count_right(net, loader, self.normalise, module.device, bf16=bf16)
        if distributed.is_distributed():
            dist.all_reduce(right)
        top1, top5 = (float(r) / len(self.val) for r in right)
        self.result = {"top1": top1, "top5": top5}
        if distributed.is_leader():
            (self.output / "metrics.json").write_text(json.dumps(self.result, indent=2) + "\n")
            _LOG.info("step %d: top-1 %.4f, top-5 %.4f of %d pictures", module.global_step, top1, top5, len(self.val))
        return dict(self.result)


def recompute_statistics(net: nn.Module, batches: Iterable[Tensor], *, bf16: bool = False) -> None:
    """Measures the batch norms of ``net`` anew over normalised batches [N, 3, H, W]."""
    with measuring_statistics(net):
        for batch in batches:
            with autocast(batch.device, bf16):
                net(batch)


@torch.no_grad()
def count_right(
    net: nn.Module, loader: Iterable[Any], normalise: Callable[[Tensor], Tensor], device: torch.device, *, bf16: bool
) -> Tensor:
    """How many pictures have their class first, and among the first five: float64 [2] on ``device``."""
    was_training = net.training
    net.eval()
    right = torch.zeros(2, dtype=torch.float64, device=device)
    for images, labels in loader:
        with autocast(device, bf16):
            logits = net(prepare(images.to(device), normalise))
        best = logits.float().topk(min(5, logits.shape[1])).indices
        hit = best == labels.to(device)[:, None]
        right += torch.stack((hit[:, 0].sum(), hit.any(dim=1).sum()))
    net.train(was_training)
    return right


def _check_resume(checkpoint: Path, config: ClassifierConfig) -> Resumed:
    """Return where the run is resumed.

    Raises:
        ValueError: the checkpoint is of another experiment.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    if CLASSIFIER not in content:
        raise ValueError(f"{checkpoint} is no classifier's training state")
    # through the schema, so that a state from before a setting existed has that setting's default
    old = from_dict(ClassifierConfig, content[CLASSIFIER]["config"], str(checkpoint))
    before, now = config_to_dict(old), config_to_dict(config)
    unlike = {key for key in now if before[key] != now[key]} - {"network", "solver", "expects"}
    if unlike:
        _LOG.warning(
            "%s differ from those that %s was begun with: the run will not repeat",
            ", ".join(sorted(unlike)),
            checkpoint,
        )
    for part in ("network", "solver"):
        changed = [k for k in now[part] if before[part][k] != now[part][k] and k not in MAY_CHANGE]
        if changed:
            raise ValueError(
                f"{checkpoint} was trained with another {part}.{changed[0]}; resume with the configuration of its run, "
                f"{checkpoint.parent / 'config.yaml'}"
            )
    lengthened = any(before["solver"][key] != now["solver"][key] for key in LENGTH)
    return resumed(content, checkpoint, config.solver.max_iter, config.solver.early_stop, lengthened)
