"""A step in parts, in one process or two, has the losses and gradients of one that is computed whole, in float64.

Run as a program, this file is one of the processes.
"""

import os
import subprocess
import sys

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from detection import build_model
from detection.checkpoint.metadata import Classes
from detection.config import AnchorConfig, Config, ModelConfig, RoIConfig, RPNConfig, SolverConfig
from detection.data.loader import Batch
from detection.training import detection_module as engine
from detection.training.trainer import make_trainer

SIZE = (64, 96)
OBJECTS = (
    ([[5.0, 5, 50, 60], [10, 10, 90, 40]], [1, 2]),
    ([], []),
    ([[0.0, 0, 30, 30], [20, 10, 90, 60], [40, 0, 60, 50]], [3, 1, 2]),
    ([], []),
)


class First:
    """A sampler that draws nothing."""

    def __init__(self, quota, foreground):
        self.quota, self.foreground = quota, foreground

    def __call__(self, label, generator=None):
        foreground = (label == 1).nonzero()[:, 0][: self.foreground]
        index = torch.cat((foreground, (label == 0).nonzero()[:, 0][: self.quota - len(foreground)]))
        return index, label[index]


class Keep(lightning.Callback):
    """The gradients of a step."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients = {n: p.grad.clone() for n, p in module.model.named_parameters() if p.grad is not None}


def step(parts, quota=40, norm="frozen_bn", rank=0, world=1, poisoned=None):
    """Losses, gradients, passes through the trunk and norms' statistics of one step of four pictures, and what moved; the
    losses of a ``poisoned`` rank are no numbers."""
    torch.manual_seed(0)
    config = ModelConfig(
        backbone="resnet18",
        norm=norm,
        freeze_at=0,
        anchors=AnchorConfig((32, 64)),
        rpn=RPNConfig(after_nms_train=25),
        roi=RoIConfig(resolution=4),
    )
    model = build_model(config, 3).double()
    model.roi_head.chunk_size = 7
    model.rpn.sampler, model.roi_head.sampler = First(64, 32), First(quota, 8)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    solver = SolverConfig(batch_size=4, accumulate=parts, max_iter=1, warmup=0, not_finite="skip")
    images = [torch.randint(256, (3, *SIZE), dtype=torch.uint8) for _ in range(4)]
    targets = [
        {"boxes": torch.tensor(b, dtype=torch.float64).reshape(-1, 4), "labels": torch.tensor(k, dtype=torch.int64)}
        for b, k in OBJECTS
    ]
    size, batches = 4 // (parts * world), []
    for part in range(parts):
        own = range((part * world + rank) * size, (part * world + rank + 1) * size)
        batches.append(
            Batch([images[i] for i in own], [targets[i] for i in own], list(own), [SIZE] * size, [True] * size)
        )
    passes, keep = [], Keep()
    model.trunk.register_forward_hook(lambda *_: passes.append(1))
    module = engine.DetectionModule(model, Config(model=config, solver=solver), Classes(("a", "b", "c"), (1, 2, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            engine, "float_images", lambda b: [i.double() / (0 if rank == poisoned else 255) for i in b.images]
        )
        make_trainer(solver, [keep]).fit(module, DataLoader(batches, batch_size=None))
    losses = module.losses
    for value in losses.values() if world > 1 else ():
        torch.distributed.all_reduce(value)
        value /= world
    norms = {name: buffer for name, buffer in model.named_buffers() if "running" in name}
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, start[name])]
    assert module.skipped == (poisoned is not None)
    if world == 1:
        whole = torch.cat([g.flatten() for g in keep.gradients.values()]).norm()
        torch.testing.assert_close(module.gradient_norm, whole, rtol=1e-9, atol=0)
        # what seatbelts watch is the sum before micro-batches are weighed anew
        assert module.loss == pytest.approx(float(sum(losses.values())), rel=1e-5 if parts == 1 else 0.02)
    return {"losses": losses, "gradients": keep.gradients, "passes": len(passes), "norms": norms, "moved": moved}


def same(a, b):
    assert a["gradients"].keys() == b["gradients"].keys() != set()
    for kind in ("losses", "gradients"):
        for name, value in a[kind].items():
            torch.testing.assert_close(b[kind][name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def whole():
    return step(1)


# of 40 regions that are wanted the pictures have 27, 25, 28 and 25
@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_equal_the_whole_batch(whole, parts):
    assert whole["passes"] == 1
    same(whole, step(parts))


def two_processes(file, parts, norm, poisoned=None):
    """The step in two processes, of which this file is the program."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, __file__, str(parts), norm, str(poisoned), str(file)]
    ended = subprocess.run(command, env=env, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("parts", "norm"), [(2, "frozen_bn"), (1, "sync_bn")])
def test_two_processes_equal_one(whole, parts, norm, tmp_path):
    two = two_processes(tmp_path / "two.pth", parts, norm)
    assert two["moved"]
    if norm == "frozen_bn":
        same(whole, two)
        return
    whole = step(1, norm="bn")  # torch's
    same(whole, two)
    for name, value in whole["norms"].items():
        torch.testing.assert_close(two["norms"][name], value, rtol=1e-9, atol=1e-12)


def test_non_finite_loss_on_one_rank_skips_the_step_on_all(tmp_path):
    two = two_processes(tmp_path / "two.pth", 2, "sync_bn", poisoned=1)
    assert [name for name in two["moved"] if "num_batches" not in name] == []


def test_earlier_micro_batches_are_recomputed_with_too_few_regions():
    cut = step(4, quota=20)  # which all pictures have
    assert cut["passes"] == 4
    same(step(1, quota=20), cut)
    assert step(4)["passes"] > 4


def test_norm_statistics_count_each_micro_batch_once():
    """With batch norms parts are no whole, but what is measured of a part must not count twice."""
    full, short = step(4, quota=20, norm="bn"), step(4, norm="bn")
    assert short["passes"] > full["passes"] == 4
    for name, value in full["norms"].items():
        if not name.startswith("roi_head"):  # whose norms see other regions
            torch.testing.assert_close(short["norms"][name], value, rtol=0, atol=0)


if __name__ == "__main__":
    rank = int(os.environ["RANK"])
    parts, norm, poisoned, file = sys.argv[1:]
    result = step(int(parts), norm=norm, rank=rank, world=2, poisoned=None if poisoned == "None" else int(poisoned))
    if rank == 0:
        torch.save(result, file)
    torch.distributed.destroy_process_group()
