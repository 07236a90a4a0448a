"""Times a step of this project's Faster R-CNN C4 beside torchvision's FasterRCNN built from the same network.

Both have the same frozen trunk and conv5_x head, picture, RoIs and proposals; each lives in a process of its own, and they
take turns, so that a machine whose speed drifts drifts for both. Printed: medians, their ratio, and each one's peak memory.

    python tools/benchmark.py                       one training step of R101-C4, 600x800, batch 1
    python tools/benchmark.py --mode inference --network resnet50 --precision bf16
"""

import argparse
import multiprocessing as mp
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from detection.build import build_model
from detection.config import ModelConfig, RoIConfig, RPNConfig

CLASSES = 80
Step = Callable[[], None]


def ours(args: argparse.Namespace) -> nn.Module:
    """This project's detector with detectron2's numbers."""
    rpn = RPNConfig(after_nms_train=args.proposals, after_nms_test=args.proposals)
    roi = RoIConfig(batch_per_image=args.rois, sampling_ratio=2, aligned=False)
    model = build_model(ModelConfig(backbone=args.network, rpn=rpn, roi=roi), CLASSES)
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
        self.classes, self.deltas = nn.Linear(channels, CLASSES + 1), nn.Linear(channels, 4 * (CLASSES + 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.classes(x), self.deltas(x)


def torchvisions(args: argparse.Namespace) -> nn.Module:
    """torchvision's detector on its own ResNet, split at conv4_x, with the same numbers."""
    net = getattr(torchvision.models, args.network)(norm_layer=FrozenBatchNorm2d)
    trunk = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3)
    trunk.out_channels = net.layer4[0].conv1.in_channels
    for part in (net.conv1, net.layer1):
        part.requires_grad_(False)
    model = FasterRCNN(
        trunk,
        min_size=args.size[0],
        max_size=max(args.size),
        rpn_anchor_generator=AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        box_head=Head(net.layer4),
        box_predictor=Predictor(net.fc.in_features),
        rpn_pre_nms_top_n_train=12000,
        rpn_pre_nms_top_n_test=6000,
        rpn_post_nms_top_n_train=args.proposals,
        rpn_post_nms_top_n_test=args.proposals,
        box_batch_size_per_image=args.rois,
    )
    return model


def tame(model: nn.Module) -> nn.Module:
    """Random weights under norms that never saw data let activations grow until few proposals survive. Damped branches
    and proposals that are the anchors give both detectors their full number of regions."""
    for name, buffer in model.named_buffers():
        if name.endswith("bn3.weight"):
            buffer.fill_(0.2)
    for name, parameter in model.named_parameters():
        if name in ("rpn.deltas.weight", "rpn.head.bbox_pred.weight"):
            nn.init.zeros_(parameter)
    return model


BUILDERS = {"resdet": ours, "torchvision": torchvisions}


def make_step(model: nn.Module, args: argparse.Namespace, device: torch.device) -> Step:
    """One training step, or one inference, on a fixed random picture with twenty objects."""
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
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")

    def train() -> None:
        with bf16:
            losses = model(images, [target] * args.batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    def infer() -> None:
        with torch.no_grad(), bf16:
            model(images)

    model.train(args.mode == "training")
    return train if args.mode == "training" else infer


def worker(pipe: Connection, name: str, args: argparse.Namespace) -> None:
    """Builds one detector; each message is answered by the seconds of a step; None by the peak memory in MB."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = make_step(tame(BUILDERS[name](args)).to(device), args, device)
    while pipe.recv() is not None:
        began = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        pipe.send(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else peak_rss_mb()
    pipe.send(peak)


def peak_rss_mb() -> float:
    """Peak resident memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def machine() -> str:
    """The machine and the versions, for the table's caption."""
    if torch.cuda.is_available():
        chip = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        chip = next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor()
        )
        chip += f", {os.cpu_count()} cores"
    return f"{chip}; torch {torch.__version__}, torchvision {torchvision.__version__}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=["training", "inference"], default="training")
    parser.add_argument("--network", default="resnet101")
    parser.add_argument("--size", type=int, nargs=2, default=[600, 800], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rois", type=int, default=512, help="sampled an image in training")
    parser.add_argument(
        "--proposals", type=int, default=None, help="after NMS (default: 2000 in training, 300 in inference)"
    )
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--repeat", type=int, default=3, help="counted steps of each, after one that is not")
    args = parser.parse_args()
    args.proposals = args.proposals or (2000 if args.mode == "training" else 300)
    context = mp.get_context("spawn")
    pipes, seconds = {}, {name: [] for name in BUILDERS}
    for name in BUILDERS:
        pipes[name], far = context.Pipe()
        context.Process(target=worker, args=(far, name, args), daemon=True).start()
    for turn in range(args.repeat + 1):
        for name, pipe in pipes.items():
            pipe.send("step")
            took = pipe.recv()
            if turn:
                seconds[name].append(took)
            print(f"turn {turn}  {name:12} {took:8.3f} s" + ("" if turn else "  (not counted)"), flush=True)
    print(f"\n{machine()}")
    print(f"{args.mode}, {args.network}-C4, {args.size[0]}x{args.size[1]}, batch {args.batch}, {args.precision}\n")
    print("| | seconds a step (median) | images a second | peak memory, MB |\n|---|---|---|---|")
    for name, pipe in pipes.items():
        pipe.send(None)
        median = statistics.median(seconds[name])
        print(f"| {name} | {median:.3f} | {args.batch / median:.3f} | {pipe.recv():.0f} |")
    pairs = [b / a for a, b in zip(seconds["resdet"], seconds["torchvision"], strict=True)]
    low, middle, high = min(pairs), statistics.median(pairs), max(pairs)
    print(f"\ntorchvision / resdet, pair by pair: median {middle:.2f} (from {low:.2f} to {high:.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
