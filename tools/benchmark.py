"""Benchmark this project against detectron2, torchvision and pycocotools, where they are installed.

    python tools/benchmark.py                       one training step of R101-C4, 600x800, batch 1
    python tools/benchmark.py --mode inference --network resnet50 --precision bf16
    python tools/benchmark.py --peer torchvision --architecture fpn --network resnet50
    python tools/benchmark.py --mode loading        annotations and DataLoader throughput
    python tools/benchmark.py --mode formats        reading COCO's, YOLO's and VOC's annotations of one size
    python tools/benchmark.py --mode conversion     what conversions there and back change; --root FOLDER of the sets
    python tools/benchmark.py --mode evaluation     COCO metrics of 5,000 images
    python tools/benchmark.py --mode startup        --help, and imports
    python tools/benchmark.py --mode classifier     ResNet-20 on images of CIFAR-10's size, against a plain loop
    python tools/benchmark.py --mode checkpointing  memory and time of solver.checkpoint_trunk
    python tools/benchmark.py --mode export --architecture fpn --network resnet50 --size 800 1216
    python tools/benchmark.py --mode serving        requests a second, latencies, overload

For detectors the peer is detectron2 where it can be imported, else torchvision. Each runs in its own process with the same
weights and images, and they alternate, so that drifts of the machine's speed affect both. Prints medians, ratios of
consecutive pairs, peak memory, the fraction of the machine's matrix multiplication rate, in inference the difference of the
detections, and on a GPU the host-device synchronisations per step. --precision sets this project's precision,
--peer-precision the peer's.
"""

import argparse
import importlib
import sys
from pathlib import Path

MODULES = {"training": "detectors", "inference": "detectors"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mode",
        choices=[
            *("training", "inference", "loading", "formats", "conversion", "evaluation", "startup", "classifier"),
            *("checkpointing", "export", "serving"),
        ],
        default="training",
    )
    parser.add_argument("--repeat", type=int, default=3, help="timed repetitions, after one warm-up")
    detectors = parser.add_argument_group("training and inference")
    detectors.add_argument(
        "--peer", choices=["detectron2", "torchvision"], help="default: detectron2 where it is installed"
    )
    detectors.add_argument("--architecture", choices=["c4", "fpn"], default="c4")
    detectors.add_argument("--network", choices=["resnet50", "resnet101"], default="resnet101")
    detectors.add_argument("--size", type=int, nargs=2, default=[600, 800], metavar=("HEIGHT", "WIDTH"))
    detectors.add_argument("--batch", type=int, default=1)
    detectors.add_argument("--rois", type=int, default=512, help="sampled per image in training")
    detectors.add_argument(
        "--proposals", type=int, default=None, help="after NMS (default: 2000 in training, 300 in inference; fpn: 1000)"
    )
    detectors.add_argument("--precision", choices=["float32", "bf16"], default="float32", help="of this project")
    detectors.add_argument("--peer-precision", choices=["float32", "bf16"], default="float32")
    detectors.add_argument("--compile", action="store_true", help="torch.compile for this project")
    detectors.add_argument("--cuda-graphs", action="store_true", help="CUDA graphs for this project's inference")
    detectors.add_argument("--tf32", action="store_true", help="TF32 matrix multiplications for both, on a GPU")
    export = parser.add_argument_group("export")
    export.add_argument(
        "--weights", help="a trained detector, whose parity is measured in place of the speed of a random one"
    )
    export.add_argument("--dynamic", action="store_true", help="export with dynamic sizes")
    export.add_argument(
        "--int8-ap", action="store_true", help="AP of float32 and int8 on the detector's validation set"
    )
    export.add_argument("--onnx-int8", action="store_true", help="ONNX Runtime's int8, too")
    loading = parser.add_argument_group("loading")
    loading.add_argument("--pictures", type=int, default=200, help="number of random JPEG images")
    loading.add_argument("--workers", type=int, default=2)
    formats = parser.add_argument_group("formats")
    formats.add_argument("--images", type=int, help="number of images (default: train2017's 118,287)")
    formats.add_argument("--objects", type=int, help="number of boxes (default: train2017's 860,001)")
    conversion = parser.add_argument_group("conversion")
    conversion.add_argument("--root", type=Path, help="folder with bccd, voc100 and coco549")
    args = parser.parse_args()
    # imported here, so that a mode needs only its own peers
    return int(importlib.import_module(f"benchmarks.{MODULES.get(args.mode, args.mode)}").run(args))


if __name__ == "__main__":
    sys.exit(main())
