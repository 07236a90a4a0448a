"""One training step or one inference of this project's Faster R-CNN beside detectron2's or torchvision's, with the same
weights and pictures.

The detector is built as the peer's is (detectron2: stride in the 1x1, RoIAlign shifted by half a pixel with as many points
as a region has cells; torchvision: stride in the 3x3, two points, no shift).
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

from benchmarks.machine import copy_rate, machine, matrix_rate, peak_rss_mb, waits, work
from detection.checkpoint.keys import to_detectron2
from detection.config import ModelConfig, RoIConfig, RPNConfig
from detection.inference.cuda_graphs import RecordedDetector
from detection.modeling.build import build_model

CLASSES = 80
Step = Callable[[], Any]
State = dict[str, Tensor]
# proposals and anchors decoded before NMS, in training and in testing: detectron2's
LIMITS = {"c4": (12000, 6000), "fpn": (2000, 1000)}


def ours(args: argparse.Namespace, state: State | None) -> nn.Module:
    """This project's detector, built as the peer's."""
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
    """conv5_x and the mean over its map, as torchvision's box head."""

    def __init__(self, layer4: nn.Module) -> None:
        super().__init__()
        self.layer4 = layer4

    def forward(self, x: Tensor) -> Tensor:
        return self.layer4(x).mean(dim=(2, 3))


class Predictor(nn.Module):
    """torchvision's two sibling layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(channels, CLASSES + 1), nn.Linear(channels, 4 * (CLASSES + 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


def torchvisions(args: argparse.Namespace, state: State) -> nn.Module:
    """torchvision's detector on its own ResNet, with the same numbers and weights."""
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
        places = {"trunk.body.": "backbone.body.", "roi_head.head.fc1.": "roi_heads.box_head.fc6."}
        places |= {"roi_head.head.fc2.": "roi_heads.box_head.fc7."}
        for i in range(4):
            places[f"trunk.fpn.lateral.{i}."] = f"backbone.fpn.inner_blocks.{i}.0."
            places[f"trunk.fpn.output.{i}."] = f"backbone.fpn.layer_blocks.{i}.0."
    else:
        parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
        trunk = nn.Sequential(*(getattr(net, part) for part in parts))
        trunk.out_channels = net.layer4[0].conv1.in_channels
        for part in (net.conv1, net.layer1):
            part.requires_grad_(False)
        model = FasterRCNN(
            trunk,
            rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
            box_head=Head(net.layer4),
            box_predictor=Predictor(net.fc.in_features),
            **options,
        )
        places = {f"trunk.{part}.": f"backbone.{i}." for i, part in enumerate(parts)}
        places["roi_head.head.layer4."] = "roi_heads.box_head.layer4."
    places |= {
        "rpn.conv.": "rpn.head.conv.0.0.",
        "rpn.objectness.": "rpn.head.cls_logits.",
        "rpn.deltas.": "rpn.head.bbox_pred.",
        "roi_head.classes.": "roi_heads.box_predictor.cls_score.",
        "roi_head.deltas.": "roi_heads.box_predictor.bbox_pred.",
    }
    theirs = {}
    for name, tensor in state.items():
        place = next(p for p in places if name.startswith(p))
        if place == "roi_head.deltas.":  # theirs has four rows for the background too
            tensor = torch.cat((torch.zeros_like(tensor[:4]), tensor))
        theirs[places[place] + name.removeprefix(place)] = tensor
    model.load_state_dict(theirs)
    return model


class Detectron2(nn.Module):
    """detectron2's detector behind torchvision's convention."""

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
        for given, image, target in zip(inputs, images, targets or (), strict=False):
            given["instances"] = Instances(image.shape[1:])
            given["instances"].gt_boxes = Boxes(target["boxes"])
            given["instances"].gt_classes = target["labels"] - 1
        if targets is None:
            found = [f["instances"] for f in self.model(inputs)]
            return [{"boxes": f.pred_boxes.tensor, "labels": f.pred_classes + 1, "scores": f.scores} for f in found]
        with EventStorage():
            return self.model(inputs)


def tame(model: nn.Module) -> State:
    """Random weights under norms that never saw data let activations grow until few proposals survive. Damped branches
    and proposals that are nearly the anchors give both detectors their full number of regions."""
    for name, buffer in model.named_buffers():
        if name.endswith(("bn3.weight", "layer4.0.bn2.weight")):
            buffer.fill_(0.2)
    for name, parameter in model.named_parameters():
        if name == "rpn.deltas.weight":
            nn.init.normal_(parameter, std=1e-4)
        elif name == "roi_head.classes.weight":
            nn.init.normal_(parameter, std=0.1)
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


BUILDERS = {"resdet": ours, "torchvision": torchvisions, "detectron2": Detectron2}
SCORE = 0.05


def make_step(model: nn.Module, args: argparse.Namespace, device: torch.device, precision: str) -> Step:
    """One training step, or one inference, on fixed random pictures with twenty objects each."""
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
    """Builds one detector and answers: "step" by its seconds, "rate" by the machine's just now, "found" by the detections,
    "peak" by the peak memory in MB, "work" by what a step does, "waits" by how often it waits for a GPU."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if args.tf32:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    model = BUILDERS[name](args, torch.load(weights, weights_only=True, mmap=True)).to(device)
    if args.compile and name == "resdet":
        for part in (model.trunk, model.rpn, model.roi_head.head):
            part.compile()
    if args.cuda_graphs and name == "resdet":
        model = RecordedDetector(model.eval())
    step = make_step(model, args, device, args.precision if name == "resdet" else args.peer_precision)
    found: Any = None
    many = 10 if device.type == "cuda" else 1  # steps that are timed together: a GPU's are short
    while (asked := pipe.recv()) != "end":
        if asked == "step":
            began = time.perf_counter()
            for _ in range(many):
                found = step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            pipe.send((time.perf_counter() - began) / many)
        elif asked == "rate":
            pipe.send(matrix_rate(device))
        elif asked == "work":
            pipe.send(work(step))
        elif asked == "waits":
            pipe.send(waits(step) if device.type == "cuda" else None)
        elif asked == "found":
            pipe.send([{k: v.float().cpu().numpy() for k, v in f.items()} for f in found])
        else:
            pipe.send(torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_rss_mb())


def difference(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> str:
    """How far the second's detections are from the first's: for each the nearest with its label."""
    pixels = scores = 0.0
    lost = total = 0
    for mine, theirs in zip(a, b, strict=True):
        if not len(mine["boxes"]):
            lost, total = lost + len(theirs["boxes"]), total + len(theirs["boxes"])
            continue
        apart = abs(mine["boxes"][:, None] - theirs["boxes"][None]).max(-1)
        apart = apart + 1e4 * abs(mine["scores"][:, None] - theirs["scores"][None])
        apart = apart + 1e6 * (mine["labels"][:, None] != theirs["labels"][None])
        for k, row in enumerate(apart.argmin(0)):
            total += 1
            box = float(abs(mine["boxes"][row] - theirs["boxes"][k]).max())
            score = float(abs(mine["scores"][row] - theirs["scores"][k]))
            if box > 1 or mine["labels"][row] != theirs["labels"][k]:
                lost += 1
            else:
                pixels, scores = max(pixels, box), max(scores, score)
    return f"{total - lost} of {total} detections are the same, boxes to {pixels:.1e} px, scores to {scores:.1e}"


def run(args: argparse.Namespace) -> int:
    if args.cuda_graphs and (args.mode == "training" or not torch.cuda.is_available()):
        raise SystemExit("--cuda-graphs wants --mode inference and a GPU")
    args.peer = args.peer or ("detectron2" if importlib.util.find_spec("detectron2") else "torchvision")
    default = 1000 if args.architecture == "fpn" else 2000 if args.mode == "training" else 300
    args.proposals = args.proposals or default
    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "weights.pth")
        torch.manual_seed(0)
        torch.save(tame(ours(args, None)), weights)
        return compare(("resdet", args.peer), args, weights)


def compare(names: tuple[str, str], args: argparse.Namespace, weights: str) -> int:
    context = mp.get_context("spawn")
    pipes: dict[str, Connection] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    rates: list[float] = []
    for name in names:
        pipes[name], far = context.Pipe()
        context.Process(target=worker, args=(far, name, args, weights), daemon=True).start()
    for turn in range(args.repeat + 1):
        for name, pipe in pipes.items():
            took = ask(pipe, "step")
            if turn:
                seconds[name].append(took)
                rates.append(ask(pipe, "rate"))
            print(f"turn {turn}  {name:12} {took:8.3f} s" + ("" if turn else "  (not counted)"), flush=True)
    print(f"\n{machine()}")
    print(
        f"{args.mode}, {args.network}-{args.architecture.upper()}, {args.size[0]}x{args.size[1]}, batch {args.batch}, "
        f"{args.proposals} proposals, {args.precision} beside {args.peer_precision}\n"
    )
    if args.mode == "inference":
        print(difference(*(ask(pipe, "found") for pipe in pipes.values())) + "\n")
    print("| | seconds a step (median) | images a second | peak memory, MB | share of the arithmetic limit |")
    print("|---|---|---|---|---|")
    rate = statistics.median(rates)
    peaks = {name: ask(pipe, "peak") for name, pipe in pipes.items()}
    works = {name: ask(pipe, "work") for name, pipe in pipes.items()}
    waited = {name: ask(pipe, "waits") for name, pipe in pipes.items()}
    for pipe in pipes.values():
        pipe.send("end")
    for name, (operations, _) in works.items():
        median = statistics.median(seconds[name])
        share = operations / rate / median
        print(f"| {name} | {median:.3f} | {args.batch / median:.3f} | {peaks[name]:.0f} | {share:.2f} |")
    pairs = [b / a for a, b in zip(*seconds.values(), strict=True)]
    low, middle, high = min(pairs), statistics.median(pairs), max(pairs)
    print(f"\n{args.peer} / resdet, pair by pair: median {middle:.2f} (from {low:.2f} to {high:.2f})")
    if any(count is not None for count in waited.values()):
        print("waits for the GPU in a step: " + ", ".join(f"{name} {count}" for name, count in waited.items()))
    print(f"peak memory, resdet / {args.peer}: {peaks['resdet'] / peaks[args.peer]:.2f}")
    operations, traffic = works["resdet"]
    copied = copy_rate(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(
        f"limit: {operations / 1e9:.0f} G multiplications and additions at {rate / 1e9:.0f} G a second (float32 matrices, "
        f"the fastest of several shapes) are {operations / rate:.2f} s; the operations of resdet read and write "
        f"{traffic / 1e9:.1f} GB, at {copied / 1e9:.1f} GB a second {traffic / copied:.2f} s"
    )
    return 0


def ask(pipe: Connection, question: str) -> Any:
    pipe.send(question)
    return pipe.recv()
