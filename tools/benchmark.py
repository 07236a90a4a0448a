"""Times this project beside what is installed of detectron2, torchvision and pycocotools, in turn, as ratios.

    python tools/benchmark.py                       one training step of R101-C4, 600x800, batch 1
    python tools/benchmark.py --mode inference --network resnet50 --precision bf16
    python tools/benchmark.py --peer torchvision --architecture fpn --network resnet50
    python tools/benchmark.py --mode loading        from files to batches
    python tools/benchmark.py --mode evaluation     COCO's numbers of 5,000 pictures
    python tools/benchmark.py --mode startup        --help, and imports

For a detector the peer is detectron2 where it can be imported, else torchvision. Each lives in a process of its own, with
the same weights and pictures, and they take turns, so that a machine whose speed drifts drifts for both. Printed: medians,
their ratio pair by pair, each one's peak memory, its share of what the machine's matrix products would allow, in inference
how far the detections differ, and on a GPU how often a step waits for it. With --precision bf16 this project's runs in bf16,
the peer's as --peer-precision says.
"""

import argparse
import importlib
import sys

KINDS = {"training": "detectors", "inference": "detectors"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mode", choices=["training", "inference", "loading", "evaluation", "startup"], default="training"
    )
    parser.add_argument("--repeat", type=int, default=3, help="counted turns of each, after one that is not")
    detectors = parser.add_argument_group("training and inference")
    detectors.add_argument(
        "--peer", choices=["detectron2", "torchvision"], help="default: detectron2 where it is installed"
    )
    detectors.add_argument("--architecture", choices=["c4", "fpn"], default="c4")
    detectors.add_argument("--network", choices=["resnet50", "resnet101"], default="resnet101")
    detectors.add_argument("--size", type=int, nargs=2, default=[600, 800], metavar=("HEIGHT", "WIDTH"))
    detectors.add_argument("--batch", type=int, default=1)
    detectors.add_argument("--rois", type=int, default=512, help="sampled an image in training")
    detectors.add_argument(
        "--proposals", type=int, default=None, help="after NMS (default: 2000 in training, 300 in inference; fpn: 1000)"
    )
    detectors.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of this project's")
    detectors.add_argument("--peer-precision", choices=["float32", "bf16"], default="float32")
    detectors.add_argument("--compile", action="store_true", help="torch.compile this project's")
    detectors.add_argument("--cuda-graphs", action="store_true", help="this project's inference replays a recording")
    detectors.add_argument("--tf32", action="store_true", help="float32 matrix products of both in TF32, on a GPU")
    loading = parser.add_argument_group("loading")
    loading.add_argument("--pictures", type=int, default=200, help="drawn and written as JPEG for the test")
    loading.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    # each kind imports what it measures, and no other's peers
    return int(importlib.import_module(f"benchmarks.{KINDS.get(args.mode, args.mode)}").run(args))


if __name__ == "__main__":
    sys.exit(main())
