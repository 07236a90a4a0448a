"""Soak test: one run is killed (SIGKILL) at random about once a minute and resumed, another runs uninterrupted; their
files must be bit-identical.

    python tests/soak.py --minutes 60 --output FOLDER [key=value ...]

Both run in parallel with one thread each, so that two cores suffice.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from runs import compare, rows

ROOT = Path(__file__).parents[1]
KEYS = [
    "data.train=200",
    "data.val=8",
    "data.short_side=[128]",
    "data.max_side=160",
    "data.workers=1",
    "pretrain.iterations=0",
    "model.norm=bn",
    "model.freeze_at=0",
    "solver.precision=float32",
    "solver.batch_size=4",
    "solver.accumulate=2",
    "solver.ema=0.99",
    "solver.log_every=1",
    "solver.eval_every=500",
]


def start(output: Path, keys: list[str], resume: bool) -> subprocess.Popen[bytes]:
    """Start a training process; its output is appended to OUTPUT.txt."""
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config", "quickstart.yaml"]
    command += ["--output", str(output), *(["--resume"] if resume else []), *keys]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with output.with_suffix(".txt").open("ab") as log:
        return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="duration of the test")
    parser.add_argument("--every", type=float, default=60, help="seconds between kills, on average")
    parser.add_argument("--steps", type=int, default=3000, help="training steps; enough to last for --minutes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the kill times")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("keys", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    keys = [*KEYS, f"solver.max_iter={args.steps}", *args.keys]
    args.output.mkdir(parents=True, exist_ok=True)
    reference, killed = args.output / "undisturbed", args.output / "killed"
    undisturbed = start(reference, keys, resume=False)
    rng = random.Random(args.seed)
    started, kills, kill_steps, code = time.monotonic(), 0, [], None
    while time.monotonic() - started < 60 * args.minutes and code is None:
        process = start(killed, keys, resume=kills > 0)
        try:
            code = process.wait(timeout=rng.uniform(0.2, 1.8) * args.every)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            kill_steps.append(max((row["step"] for row in rows(killed)), default=0))
            print(f"{time.monotonic() - started:6.0f} s  kill {kills} at step {kill_steps[-1]}", flush=True)
    minutes = (time.monotonic() - started) / 60
    if code is None:
        code = start(killed, keys, resume=True).wait()
    else:
        print(f"the run finished early: increase --steps from {args.steps}")
    codes = (undisturbed.wait(), code)
    differences = compare(reference, killed) if codes == (0, 0) else [f"exit codes {codes}"]
    print(
        f"{kills} kills in {minutes:.1f} minutes, {args.steps} steps; differences: {len(differences)}",
        *differences[:20],
        sep="\n",
    )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
