"""Load test of ``resdet serve``: requests a second, latency percentiles, and what happens at overload. A random quickstart
detector in a process of its own; clients are threads here."""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import machine
from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import Classes
from detection.config import load_config
from detection.modeling.build import build_model

_PORT = 8753
_WAITING = 8


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(args.weights) if args.weights else Path(scratch) / "best.pth"
        if not args.weights:
            config = load_config("quickstart.yaml", ["model.norm=bn"])
            save_detector(weights, build_model(config.model, 3), config, Classes(("a", "b", "c"), (1, 2, 3)))
        command = [
            sys.executable,
            "-m",
            "detection",
            "serve",
            str(weights),
            "--port",
            str(_PORT),
            "--waiting",
            str(_WAITING),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait()
            print(
                f"{machine()}\n\n| clients | requests | 200 | 503 | lost | a second | p50 | p95 | p99 |\n"
                + "|---" * 9
                + "|"
            )
            for clients in (1, 4, 32):
                load(clients, 10 * args.repeat * min(clients, 8))
        finally:
            process.terminate()
            process.wait()
    return 0


def wait() -> None:
    """Wait until the service answers."""
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/health", timeout=5).read()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the service does not start")


def load(clients: int, count: int) -> None:
    """Send ``count`` requests from as many threads, and print what came back."""
    image = np.random.default_rng(0).integers(0, 256, (256, 320, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    body = head + buffer.getvalue() + b"\r\n--x--\r\n"

    def one(_: int) -> tuple[int, float]:
        request = urllib.request.Request(f"http://127.0.0.1:{_PORT}/detect", body)
        request.add_header("Content-Type", "multipart/form-data; boundary=x")
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                json.loads(response.read())
                return response.status, time.perf_counter() - start
        except urllib.error.HTTPError as error:
            status = error.code if error.headers.get("Retry-After") else 0
            return status, time.perf_counter() - start
        except OSError:
            return 0, time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(one, range(count)))
    seconds = time.perf_counter() - start
    done = [s for status, s in answers if status == 200]
    refused = sum(status == 503 for status, _ in answers)
    p50, p95, p99 = np.percentile(done, (50, 95, 99))
    lost = count - len(done) - refused
    print(
        f"| {clients} | {count} | {len(done)} | {refused} | {lost} | {len(done) / seconds:.1f} | {p50:.2f} s | {p95:.2f} s "
        f"| {p99:.2f} s |",
        flush=True,
    )
