"""Settings derived from the training set: anchor sizes, number of steps, initial biases of the class layer."""

import dataclasses
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
