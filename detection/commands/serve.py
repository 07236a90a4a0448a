"""``resdet serve``: a detector as an HTTP service."""

import argparse
from collections.abc import Sequence
from typing import get_args

from detection.inference.predictor import Predictor
from detection.serving.app import ServeLimits, make_app
from detection.utils.precision import Precision


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command until it is interrupted."""
    defaults = ServeLimits()
    parser = argparse.ArgumentParser(
        prog="resdet serve",
        description="Serve a detector over HTTP: POST an image to /detect; a form is at /, the API at /docs.",
        allow_abbrev=False,
    )
    parser.add_argument("weights", metavar="WEIGHTS", help="best.pth, or an exported FILE.onnx, FILE.xml or FILE.pt2")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine alone; 0.0.0.0: everybody)"
    )
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU where there is one)")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    parser.add_argument("--score", type=float, help="minimum score of detections (default: the detector's own)")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="default: %(default)s")
    parser.add_argument(
        "--waiting",
        type=int,
        default=defaults.waiting,
        help="requests that wait; others get 503 (default: %(default)s)",
    )
    parser.add_argument("--max-bytes", type=int, default=defaults.max_bytes, help="of a request (default: %(default)s)")
    parser.add_argument(
        "--max-pixels", type=int, default=defaults.max_pixels, help="of an image (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, default=defaults.timeout, help="seconds of a request (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    limits = ServeLimits(args.max_bytes, args.max_pixels, args.timeout, args.batch_size, args.waiting)
    for name in ("batch_size", "waiting", "max_bytes", "max_pixels"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    predictor = Predictor(args.weights, device=args.device, precision=args.precision, score_threshold=args.score)
    app = make_app(predictor, limits)
    import uvicorn

    print(f"{args.weights} is served at http://{args.host}:{args.port}/ (Ctrl-C ends)")
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", server_header=False)
    return 0
