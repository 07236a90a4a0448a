"""Benchmark one training step or inference of Faster R-CNN against detectron2 or torchvision, with equal weights and images.

The detector is built like the peer's (detectron2: stride in the 1x1 convolution, aligned RoIAlign with adaptive sampling;
torchvision: stride in the 3x3 convolution, sampling ratio 2, not aligned).
"""

import argparse
import importlib.util
import multiprocessing as mp
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from benchmarks.machine import copy_rate, count_syncs, machine, matrix_rate, peak_rss_mb, work
from detection.checkpoint.keys import to_detectron2
from detection.config import ModelConfig, RoIConfig, RPNConfig
from detection.inference.cuda_graphs import RecordedDetector
from detection.modeling.build import build_model

CLASSES = 80
Step = Callable[[], Any]
State = dict[str, Tensor]
# top-k before NMS in training and testing, as detectron2
LIMITS = {"c4": (12000, 6000), "fpn": (2000, 1000)}


def build_resdet(args: argparse.Namespace, state: State | None) -> nn.Module:
    """Build this project's detector like the peer's, with the weights of ``state`` where given."""
    train, test = LIMITS[args.architecture]
    rpn = RPNConfig(
        after_nms_train=args.proposals,
        after_nms_test=args.proposals,
        before_nms_train=train,
        before_nms_test=test,
    )
    like_detectron2 = args.peer == "detectron2"
    roi = RoIConfig(
        batch_per_image=args.rois,
        resolution=14 if args.architecture == "c4" else 7,
        sampling_ratio=0 if like_detectron2 else 2,
        aligned=like_detectron2,
    )
    config = ModelConfig(
        architecture=args.architecture,
        backbone=args.network,
        recipe="detectron2" if like_detectron2 else "torchvision",
        rpn=rpn,
        roi=roi,
    )
    model = build_model(config, CLASSES)
    if state is not None:
        model.load_state_dict(state)
    return model.to(memory_format=torch.channels_last)


class Head(nn.Module):
    """conv5_x with global average pooling, as torchvision's box head."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x).mean(dim=(2, 3))


class Predictor(nn.Module):
    """Class and box layers, as torchvision's box predictor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(channels, CLASSES + 1), nn.Linear(channels, 4 * (CLASSES + 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


def build_torchvision(args: argparse.Namespace, state: State) -> nn.Module:
    """Build torchvision's detector on its own ResNet, with the same hyperparameters and weights."""
    net = getattr(torchvision.models, args.network)(norm_layer=FrozenBatchNorm2d)
    train, test = LIMITS[args.architecture]
    options: dict[str, Any] = {
        "min_size": min(args.size),
        "max_size": max(args.size),
        "rpn_pre_nms_top_n_train": train,
        "rpn_pre_nms_top_n_test": test,
        "rpn_post_nms_top_n_train": args.proposals,
        "rpn_post_nms_top_n_test": args.proposals,
        "box_batch_size_per_image": args.rois,
        "box_score_thresh": SCORE,
    }
    if args.architecture == "fpn":
        model = FasterRCNN(_resnet_fpn_extractor(net, 3), CLASSES + 1, **options)
        prefixes = {"trunk.body.": "backbone.body.", "roi_head.head.fc1.": "roi_heads.box_head.fc6."}
        prefixes |= {"roi_head.head.fc2.": "roi_heads.box_head.fc7."}
        for i in range(4):
            prefixes[f"trunk.fpn.lateral.{i}."] = f"backbone.fpn.inner_blocks.{i}.0."
            prefixes[f"trunk.fpn.output.{i}."] = f"backbone.fpn.layer_blocks.{i}.0."
    else:
        layers = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
        trunk = nn.Sequential(*(getattr(net, layer) for layer in layers))
        trunk.out_channels = net.layer4[0].conv1.in_channels
        for frozen in (net.conv1, net.layer1):
            frozen.requires_grad_(False)
        model = FasterRCNN(
            trunk,
            rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
            box_head=Head(net.layer4),
            box_predictor=Predictor(net.fc.in_features),
            **options,
        )
        prefixes = {f"trunk.{layer}.": f"backbone.{i}." for i, layer in enumerate(layers)}
        prefixes["roi_head.head.layer4."] = "roi_heads.box_head.layer4."
    prefixes |= {
        "rpn.conv.": "rpn.head.conv.0.0.",
        "rpn.objectness.": "rpn.head.cls_logits.",
        "rpn.deltas.": "rpn.head.bbox_pred.",
        "roi_head.classes.": "roi_heads.box_predictor.cls_score.",
        "roi_head.deltas.": "roi_heads.box_predictor.bbox_pred.",
    }
    converted = {}
    for name, tensor in state.items():
        prefix = next(p for p in prefixes if name.startswith(p))
        if prefix == "roi_head.deltas.":  # torchvision has four rows for the background too
            tensor = torch.cat((torch.zeros_like(tensor[:4]), tensor))
        converted[prefixes[prefix] + name.removeprefix(prefix)] = tensor
    model.load_state_dict(converted)
    return model


class Detectron2(nn.Module):
    """detectron2's detector with torchvision's inputs and outputs."""

    def __init__(self, args: argparse.Namespace, state: State) -> None:
        from detectron2 import model_zoo
        from detectron2.modeling import build_model as build

        super().__init__()
        schedule = "1x" if args.network == "resnet50" else "3x"
        kind = f"R_{args.network.removeprefix('resnet')}_{args.architecture.upper()}_{schedule}"
        cfg = model_zoo.get_config(f"COCO-Detection/faster_rcnn_{kind}.yaml")
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        cfg.MODEL.WEIGHTS = ""
        cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TEST = args.proposals
        cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = args.rois
        self.model = build(cfg)
        self.model.load_state_dict(to_detectron2(state))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        from detectron2.structures import Boxes, Instances
        from detectron2.utils.events import EventStorage

        inputs: list[dict[str, Any]] = [{"image": image.flip(0) * 255} for image in images]
        for entry, image, target in zip(inputs, images, targets or (), strict=False):
            entry["instances"] = Instances(image.shape[1:])
            entry["instances"].gt_boxes = Boxes(target["boxes"])
            entry["instances"].gt_classes = target["labels"] - 1
        if targets is None:
            outputs = [o["instances"] for o in self.model(inputs)]
            return [{"boxes": o.pred_boxes.tensor, "labels": o.pred_classes + 1, "scores": o.scores} for o in outputs]
        with EventStorage():
            return self.model(inputs)


def damped_weights(model: nn.Module) -> State:
    """Return random weights with which both detectors have their full number of proposals.

    With default norms the activations of random weights grow until few proposals remain. Scales the residual branches down,
    and makes the proposals nearly equal to the anchors.
    """
    for name, buffer in model.named_buffers():
        if name.endswith(("bn3.weight", "layer4.0.bn2.weight")):
            buffer.fill_(0.2)
    for name, parameter in model.named_parameters():
        if name == "rpn.deltas.weight":
            nn.init.normal_(parameter, std=1e-4)
        elif name == "roi_head.classes.weight":
            nn.init.normal_(parameter, std=0.1)
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


BUILDERS = {"resdet": build_resdet, "torchvision": build_torchvision, "detectron2": Detectron2}
SCORE = 0.05


def make_step(model: nn.Module, args: argparse.Namespace, device: torch.device, precision: str) -> Step:
    """Return a function that runs one training step or inference on fixed random images with twenty objects each."""
    generator = torch.Generator().manual_seed(0)
    height, width = args.size
    images = [torch.rand(3, height, width, generator=generator).to(device) for _ in range(args.batch)]
    corner = torch.rand(20, 2, generator=generator) * torch.tensor([width * 0.7, height * 0.7])
    side = 30 + torch.rand(20, 2, generator=generator) * min(args.size) * 0.25
    target = {
        "boxes": torch.cat((corner, corner + side), dim=1).to(device),
        "labels": torch.arange(1, 21, device=device),
    }
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-6, momentum=0.9)
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def train() -> None:
        with bf16:
            losses = model(images, [target] * args.batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    def infer() -> Any:
        with torch.no_grad(), bf16:
            return model(images)

    model.train(args.mode == "training")
    return train if args.mode == "training" else infer


def worker(pipe: Connection, name: str, args: argparse.Namespace, weights: str) -> None:
    """Build one detector and answer requests from a pipe until "end".

    Requests: "step" (seconds of a step), "rate" (the machine's current matrix multiplication rate), "detections", "peak"
    (peak memory in MB), "work" (operations and bytes of a step), "syncs" (host-device synchronisations of a step).
    """
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.tf32:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    model = BUILDERS[name](args, torch.load(weights, weights_only=True, mmap=True)).to(device)
    if args.compile and name == "resdet":
        for module in (model.trunk, model.rpn, model.roi_head.head):
            module.compile()
    if args.cuda_graphs and name == "resdet":
        model = RecordedDetector(model.eval())
    step = make_step(model, args, device, args.precision if name == "resdet" else args.peer_precision)
    output: Any = None
    steps = 10 if device.type == "cuda" else 1  # timed together: steps on a GPU are short
    while (request := pipe.recv()) != "end":
        if request == "step":
            start = time.perf_counter()
            for _ in range(steps):
                output = step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            pipe.send((time.perf_counter() - start) / steps)
        elif request == "rate":
            pipe.send(matrix_rate(device))
        elif request == "work":
            pipe.send(work(step))
        elif request == "syncs":
            pipe.send(count_syncs(step) if device.type == "cuda" else None)
        elif request == "detections":
            pipe.send([{k: v.float().cpu().numpy() for k, v in o.items()} for o in output])
        else:
            pipe.send(torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_rss_mb())


def difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> str:
    """Compare each detection of the second detector with the nearest of the same label of the first."""
    max_pixels = max_score = 0.0
    unmatched = total = 0
    for first, second in zip(a, b, strict=True):
        if not len(first["boxes"]):
            unmatched, total = unmatched + len(second["boxes"]), total + len(second["boxes"])
            continue
        distance = abs(first["boxes"][:, None] - second["boxes"][None]).max(-1)
        distance = distance + 1e4 * abs(first["scores"][:, None] - second["scores"][None])
        distance = distance + 1e6 * (first["labels"][:, None] != second["labels"][None])
        for k, row in enumerate(distance.argmin(0)):
            total += 1
            box = float(abs(first["boxes"][row] - second["boxes"][k]).max())
            score = float(abs(first["scores"][row] - second["scores"][k]))
            if box > 1 or first["labels"][row] != second["labels"][k]:
                unmatched += 1
            else:
                max_pixels, max_score = max(max_pixels, box), max(max_score, score)
    matched = f"{total - unmatched} of {total} detections match"
    return f"{matched}, boxes within {max_pixels:.1e} px, scores within {max_score:.1e}"


def run(args: argparse.Namespace) -> int:
    if args.cuda_graphs and (args.mode == "training" or not torch.cuda.is_available()):
        raise SystemExit("--cuda-graphs needs --mode inference and a GPU")
    args.peer = args.peer or ("detectron2" if importlib.util.find_spec("detectron2") else "torchvision")
    default = 1000 if args.architecture == "fpn" else 2000 if args.mode == "training" else 300
    args.proposals = args.proposals or default
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pth")
        torch.manual_seed(0)
        torch.save(damped_weights(build_resdet(args, None)), weights)
        return compare(("resdet", args.peer), args, weights)


def compare(names: tuple[str, str], args: argparse.Namespace, weights: str) -> int:
    context = mp.get_context("spawn")
    pipes: dict[str, Connection] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rates: list[float] = []
    for name in names:
        pipes[name], child = context.Pipe()
        context.Process(target=worker, args=(child, name, args, weights), daemon=True).start()
    for repetition in range(args.repeat + 1):
        for name, pipe in pipes.items():
            duration = query(pipe, "step")
            if repetition:
                seconds[name].append(duration)
                rates.append(query(pipe, "rate"))
            print(f"{repetition}  {name:12} {duration:8.3f} s" + ("" if repetition else "  (warm-up)"), flush=True)
    print(f"\n{machine()}")
    print(
        f"{args.mode}, {args.network}-{args.architecture.upper()}, {args.size[0]}x{args.size[1]}, batch {args.batch}, "
        f"{args.proposals} proposals, {args.precision} (peer: {args.peer_precision})\n"
    )
    if args.mode == "inference":
        print(difference(*(query(pipe, "detections") for pipe in pipes.values())) + "\n")
    print("| | seconds per step (median) | images per second | peak memory, MB | fraction of the arithmetic limit |")
    print("|---|---|---|---|---|")
    rate = statistics.median(rates)
    peaks = {name: query(pipe, "peak") for name, pipe in pipes.items()}
    works = {name: query(pipe, "work") for name, pipe in pipes.items()}
    syncs = {name: query(pipe, "syncs") for name, pipe in pipes.items()}
    for pipe in pipes.values():
        pipe.send("end")
    for name, (operations, _) in works.items():
        median = statistics.median(seconds[name])
        fraction = operations / rate / median
        print(f"| {name} | {median:.3f} | {args.batch / median:.3f} | {peaks[name]:.0f} | {fraction:.2f} |")
    pairs = [b / a for a, b in zip(*seconds.values(), strict=True)]
    low, median, high = min(pairs), statistics.median(pairs), max(pairs)
    print(f"\n{args.peer} / resdet, ratio of pairs: median {median:.2f} ({low:.2f} to {high:.2f})")
    if any(count is not None for count in syncs.values()):
        print("host-device syncs per step: " + ", ".join(f"{name} {count}" for name, count in syncs.items()))
    print(f"peak memory, resdet / {args.peer}: {peaks['resdet'] / peaks[args.peer]:.2f}")
    operations, traffic = works["resdet"]
    bandwidth = copy_rate(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(
        f"limits: {operations / 1e9:.0f} GFLOP at {rate / 1e9:.0f} GFLOP/s (float32 matrix multiplication, fastest of "
        f"several shapes) take {operations / rate:.2f} s; the operations of resdet read and write {traffic / 1e9:.1f} GB, "
        f"at {bandwidth / 1e9:.1f} GB/s {traffic / bandwidth:.2f} s"
    )
    return 0


def query(pipe: Connection, name: str) -> Any:
    """Send a request to a worker and return its answer."""
    pipe.send(name)
    return pipe.recv()
