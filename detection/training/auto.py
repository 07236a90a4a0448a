"""Settings derived from the training set: anchor sizes, number of steps, initial biases of the class layer."""

import dataclasses
import difflib
import logging
import math

import numpy as np
import torch

from detection.config import Config
from detection.data.loader import TrainSet
from detection.dataset_check.anchor_coverage import best_anchor_sizes, resized_boxes
from detection.modeling.faster_rcnn import FasterRCNN
from detection.training.schedule import in_steps

_LOG = logging.getLogger(__name__)
EPOCHS, MIN_STEPS = 12, 1000  # of solver.max_iter=auto
_ANCHOR_IMAGES = 500  # images whose boxes anchor sizes are fitted to, at most
_PSEUDO_COUNT = 1.0  # added to each class's count (Laplace smoothing), so that a rare class can still be learned


def resolve(config: Config, dataset: TrainSet) -> Config:
    """Return the configuration with each ``auto`` replaced by a value, and log each value with its reason.

    Args:
        config: of the run.
        dataset: the training set.
    """
    model, solver = config.model, config.solver
    usable = dataset.usable()
    if not model.anchors.sizes:
        subset = usable[:: max(1, math.ceil(len(usable) / _ANCHOR_IMAGES))]
        records, objects = dataset.records, dataset.objects
        boxes = [objects.boxes[records.objects(i)][objects.keep[records.objects(i)]].tolist() for i in subset]
        sizes = [(int(h), int(w)) for h, w in records.sizes[subset]]
        anchor_sizes, coverage, default_coverage = best_anchor_sizes(
            model, resized_boxes(config, list(zip(sizes, boxes, strict=True)))
        )
        _LOG.info(
            "model.anchors.sizes=auto: [%s], which match %.1f%% of the boxes at IoU 0.5 (default sizes %.1f%%)",
            ", ".join(f"{size:g}" for size in anchor_sizes),
            100 * coverage,
            100 * default_coverage,
        )
        model = dataclasses.replace(model, anchors=dataclasses.replace(model.anchors, sizes=anchor_sizes))
    if isinstance(given := model.roi.class_weights, str | dict):
        weights = _weights_by_name(given, dataset) if isinstance(given, dict) else _balanced_weights(dataset)
        names = ("background", *dataset.records.classes)
        listed = ", ".join(f"{name} {weight:.3g}" for name, weight in zip(names, weights, strict=True))
        _LOG.info("model.roi.class_weights: %s", listed)
        model = dataclasses.replace(model, roi=dataclasses.replace(model.roi, class_weights=weights))
    solver = in_steps(solver, len(usable))
    if not solver.max_iter:
        steps = max(math.ceil(EPOCHS * len(usable) / solver.batch_size), MIN_STEPS)
        _LOG.info(
            "solver.max_iter=auto: %d steps, %.1f epochs of %d images (%d epochs, at least %d steps)",
            steps,
            steps * solver.batch_size / len(usable),
            len(usable),
            EPOCHS,
            MIN_STEPS,
        )
        solver = dataclasses.replace(solver, max_iter=steps)
    return dataclasses.replace(config, model=model, solver=solver)


def _balanced_weights(dataset: TrainSet) -> tuple[float, ...]:
    """Return the background's 1, and of each class M / (K n), whose mean over the objects is 1; a class without an object
    counts as one with one."""
    classes = len(dataset.records.classes)
    labels = dataset.records.labels[dataset.objects.keep]
    counts = np.maximum(np.bincount(labels, minlength=classes + 1)[1:], 1)
    return (1.0, *(len(labels) / (classes * counts)).tolist())


def _weights_by_name(given: dict[str, float], dataset: TrainSet) -> tuple[float, ...]:
    """Return the weights in the order of the labels.

    Raises:
        ValueError: a name that is no class; suggests the closest.
    """
    names = ("background", *dataset.records.classes)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"model.roi.class_weights: no class {name!r}: {hint}There are {', '.join(names)}")
    return tuple(float(given.get(name, 1.0)) for name in names)


@torch.no_grad()
def start_classes_at_frequencies(model: FasterRCNN, dataset: TrainSet, foreground_fraction: float) -> None:
    """Set the class layer's biases to log priors of a sampled region: 1 - ``foreground_fraction`` for the background, the
    rest in proportion to the classes' object counts.

    The softmax of the untrained layer is then near the class frequencies, so that the first steps do not change the trunk
    to learn them (the softmax form of RetinaNet's prior initialisation, Lin et al., 2017, section 4.1).
    """
    head = model.roi_head
    labels = dataset.records.labels[dataset.objects.keep]
    counts = np.bincount(labels, minlength=head.num_classes + 1)[1:] + _PSEUDO_COUNT
    foreground = foreground_fraction * counts / counts.sum()
    prior = torch.from_numpy(np.concatenate(([1 - foreground_fraction], foreground)))
    head.classes.bias.copy_(prior.log())
