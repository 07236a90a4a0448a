"""Settings that a run takes from its own data: anchor sizes, the number of steps, where the class layer starts."""

import dataclasses
import logging
import math

import numpy as np
import torch

from detection.config import Config
from detection.data.loader import TrainSet
from detection.dataset_check.anchor_coverage import best_anchor_sizes, resized_boxes
from detection.modeling.faster_rcnn import FasterRCNN

_LOG = logging.getLogger(__name__)
EPOCHS, MIN_STEPS = 12, 1000  # of solver.max_iter=auto
_LOOKED_AT = 500  # images whose boxes are held against anchors
_UNSEEN = 1.0  # objects that a class is counted as having besides its own, so that a rare one can still be learned


def resolve(config: Config, dataset: TrainSet) -> Config:
    """Return the configuration with every ``auto`` replaced by a number, each said in the log with its reason.

    Args:
        config: of the run.
        dataset: its training set.
    """
    model, solver = config.model, config.solver
    usable = dataset.usable()
    if not model.anchors.sizes:
        some = usable[:: max(1, math.ceil(len(usable) / _LOOKED_AT))]
        records, objects = dataset.records, dataset.objects
        boxes = [objects.boxes[records.objects(i)][objects.keep[records.objects(i)]].tolist() for i in some]
        sizes = [(int(h), int(w)) for h, w in records.sizes[some]]
        chosen, matched, usual = best_anchor_sizes(model, resized_boxes(config, list(zip(sizes, boxes, strict=True))))
        _LOG.info(
            "model.anchors.sizes=auto: [%s], of which %.1f%% of the boxes find one at IoU 0.5 (%.1f%% with the usual sizes)",
            ", ".join(f"{size:g}" for size in chosen),
            100 * matched,
            100 * usual,
        )
        model = dataclasses.replace(model, anchors=dataclasses.replace(model.anchors, sizes=chosen))
    if not solver.max_iter:
        steps = max(math.ceil(EPOCHS * len(usable) / solver.batch_size), MIN_STEPS)
        _LOG.info(
            "solver.max_iter=auto: %d steps, %.1f epochs of %d images (%d epochs, but %d steps at least)",
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
    """Set the class layer's biases to the logarithms of what a sampled region is likely to be: background with
    1 - ``foreground_fraction``, the rest divided as the training objects are.

    The softmax of the untrained layer is then near the classes' frequencies, and the first steps need not move the trunk to
    learn them (the softmax form of RetinaNet's prior, Lin et al., 2017, section 4.1).
    """
    head = model.roi_head
    labels = dataset.records.labels[dataset.objects.keep]
    counts = np.bincount(labels, minlength=head.num_classes + 1)[1:] + _UNSEEN
    share = foreground_fraction * counts / counts.sum()
    prior = torch.from_numpy(np.concatenate(([1 - foreground_fraction], share)))
    head.classes.bias.copy_(prior.log())
