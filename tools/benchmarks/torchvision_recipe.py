"""Fine-tune torchvision's FasterRCNN with torchvision's recipe on the dataset of a configuration, as the suite's baseline.

The recipe is that of torchvision's fine-tuning tutorial and references/detection: SGD with learning rate 0.005 for two
images (scaled linearly with the batch size), momentum 0.9, weight decay 5e-4, linear warm-up over the first epoch or 1,000
steps, learning rate divided by 10 at 16/26 and 22/26 of the run, horizontal flips, images resized to a short side of 480,
float32. conv1 and layer1 are frozen, as torchvision does by default.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d

from backbone import RECIPES, load_weights, resnet50
from backbone.adapters.torchvision import TorchvisionBackbone
from detection.config import Config, ModelConfig
from detection.data.loader import TrainSet
from detection.data.opening import open_source
from detection.evaluation.report import evaluate, write_report
from detection.utils.atomic_io import write_json

LR, BATCH = 0.005, 2


def build(architecture: str, model: ModelConfig, num_classes: int, short_side: int) -> FasterRCNN:
    """Return torchvision's detector.

    Args:
        architecture: "c4" for a ResNet-18 up to conv4_x with a head of two fully connected layers (as in the tutorial's
            example of another backbone), "fpn" for a ResNet-50 with FPN.
        model: names the backbone's weights and recipe.
        num_classes: number of foreground classes.
        short_side: of the resized images.
    """
    assert model.weights is not None
    sizes: dict[str, Any] = {"min_size": short_side, "max_size": 1333}
    if architecture == "fpn":
        recipe = RECIPES[model.recipe]
        net = resnet50(norm="frozen_bn", freeze_at=2, stride_in=recipe.stride_in, stem_pool=recipe.stem_pool)
        load_weights(net, model.weights, model.recipe)
        return FasterRCNN(TorchvisionBackbone(net), num_classes + 1, **sizes)
    net = resnet18(norm_layer=FrozenBatchNorm2d)
    net.load_state_dict(torch.load(model.weights, weights_only=True), strict=False)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    body: Any = nn.Sequential(OrderedDict((name, getattr(net, name)) for name in names))
    body.out_channels = 256
    for name in ("conv1", "layer1"):
        getattr(body, name).requires_grad_(False)
    anchors = AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    return FasterRCNN(body, num_classes + 1, rpn_anchor_generator=anchors, **sizes)


def train(config: Config, output: Path, architecture: str = "c4", short_side: int = 480) -> dict[str, float | None]:
    """Train for ``config.solver.max_iter`` steps on ``config.data``, evaluate with this project's evaluator (which equals
    pycocotools), and write metrics.json into ``output``.

    Raises:
        ValueError: the loss became non-finite; torchvision's script stops too.
    """
    torch.manual_seed(config.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source = open_source(config.data)
    assert source.train is not None
    assert source.val is not None
    records, val = source.train, source.val
    model = build(architecture, config.model, len(records.classes), short_side).to(device)
    batch, steps = config.solver.batch_size, config.solver.max_iter
    dataset = TrainSet(records, source.read, config.data, config.seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, LR * batch / BATCH, momentum=0.9, weight_decay=5e-4)
    epoch = max(len(dataset.usable()) // batch, 1)
    warmup = min(1000, epoch - 1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            min(1.0, 0.001 + step / max(warmup, 1)) * 0.1 ** ((step >= steps * 16 / 26) + (step >= steps * 22 / 26))
        ),
    )
    start = time.perf_counter()
    model.train()
    for images, targets in itertools.islice(_batches(dataset, batch, config.seed), steps):
        losses = model([i.to(device) for i in images], [{k: v.to(device) for k, v in t.items()} for t in targets])
        loss = sum(losses.values())
        if not torch.isfinite(loss):
            raise ValueError(f"loss is {float(loss)}: training stopped")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    seconds = time.perf_counter() - start
    report = evaluate(val.to_coco(), _detections(model.eval(), val, source.read, device))
    output.mkdir(parents=True, exist_ok=True)
    write_report(report, output)
    write_json(output / "seconds.json", {"training_seconds": seconds})
    return report.metrics


def _batches(dataset: TrainSet, batch: int, seed: int) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Yield infinite shuffled batches of images at their original size, float RGB 0..1, flipped with probability 0.5."""
    rng = np.random.default_rng(seed)
    records, usable = dataset.records, dataset.usable()
    order = itertools.chain.from_iterable(rng.permutation(usable) for _ in itertools.count())
    while True:
        images, targets = [], []
        for i in itertools.islice(order, batch):
            image = torch.from_numpy(dataset.read(records.files[i]).copy()).permute(2, 0, 1).float() / 255
            objects = records.objects(i)
            keep = dataset.objects.keep[objects]
            boxes = torch.from_numpy(dataset.objects.boxes[objects][keep])
            if rng.random() < 0.5:
                image = image.flip(-1)
                boxes = boxes.clone()
                boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
            images.append(image)
            targets.append({"boxes": boxes, "labels": torch.from_numpy(records.labels[objects][keep])})
        yield images, targets


@torch.no_grad()
def _detections(model: FasterRCNN, records: Any, read: Any, device: torch.device) -> list[dict[str, Any]]:
    results = []
    for i, image_id in enumerate(records.image_ids):
        image = torch.from_numpy(read(records.files[i]).copy()).permute(2, 0, 1).float() / 255
        (detections,) = model([image.to(device)])
        for (x1, y1, x2, y2), label, score in zip(
            detections["boxes"].tolist(), detections["labels"].tolist(), detections["scores"].tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            category = records.category_ids[label - 1]
            results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    return results
