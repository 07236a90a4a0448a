"""A step with micro-batches, on one or two ranks, has the losses and gradients of the whole batch, in float64."""

import lightning
import numpy as np
import pytest
import torch
from ranks import two_ranks
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from detection import build_model
from detection.checkpoint.metadata import Classes
from detection.config import AnchorConfig, Config, ModelConfig, RoIConfig, RPNConfig, SolverConfig
from detection.data.loader import Batch
from detection.training import detection_module as engine
from detection.training.trainer import make_trainer
from detection.utils import distributed

pytestmark = pytest.mark.usefixtures("thin_networks")
SIZE = (64, 96)
OBJECTS = (
    ([[5.0, 5, 50, 60], [10, 10, 90, 40]], [1, 2]),
    ([], []),
    ([[0.0, 0, 30, 30], [20, 10, 90, 60], [40, 0, 60, 50]], [3, 1, 2]),
    ([], []),
)


class First:
    """A deterministic sampler: the first candidates of each kind."""

    def __init__(self, quota, foreground):
        self.quota, self.foreground = quota, foreground

    def __call__(self, label, generator=None):
        foreground = (label == 1).nonzero()[:, 0][: self.foreground]
        index = torch.cat((foreground, (label == 0).nonzero()[:, 0][: self.quota - len(foreground)]))
        return index, label[index]


class Keep(lightning.Callback):
    """Keep the gradients of a step."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.gradients = {n: p.grad.clone() for n, p in module.model.named_parameters() if p.grad is not None}


def step(micro_batches, quota=40, norm="frozen_bn", rank=0, world=1, non_finite_rank=None):
    """Return losses, gradients, forward passes of the trunk, norm statistics and changed tensors of a step of four images; the
    losses of rank ``non_finite_rank`` are non-finite."""
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
    solver = SolverConfig(batch_size=4, accumulate=micro_batches, max_iter=1, warmup=0, not_finite="skip")
    images = [torch.randint(256, (3, *SIZE), dtype=torch.uint8) for _ in range(4)]
    targets = [
        {"boxes": torch.tensor(b, dtype=torch.float64).reshape(-1, 4), "labels": torch.tensor(k, dtype=torch.int64)}
        for b, k in OBJECTS
    ]
    size, batches = 4 // (micro_batches * world), []
    for micro_batch in range(micro_batches):
        indices = range((micro_batch * world + rank) * size, (micro_batch * world + rank + 1) * size)
        batches.append(
            Batch(
                [images[i] for i in indices], [targets[i] for i in indices], list(indices), [SIZE] * size, [True] * size
            )
        )
    passes, keep = [], Keep()
    model.trunk.register_forward_hook(lambda *_: passes.append(1))
    module = engine.DetectionModule(model, Config(model=config, solver=solver), Classes(("a", "b", "c"), (1, 2, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            engine, "float_images", lambda b: [i.double() / (0 if rank == non_finite_rank else 255) for i in b.images]
        )
        make_trainer(solver, [keep]).fit(module, DataLoader(batches, batch_size=None))
    losses = module.losses
    for value in losses.values() if world > 1 else ():
        torch.distributed.all_reduce(value)
        value /= world
    norms = {name: buffer for name, buffer in model.named_buffers() if "running" in name}
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, start[name])]
    assert module.skipped == (non_finite_rank is not None)
    if world == 1:
        whole = torch.cat([g.flatten() for g in keep.gradients.values()]).norm()
        torch.testing.assert_close(module.gradient_norm, whole, rtol=1e-9, atol=0)
        # the logged loss is the sum before micro-batches are reweighted
        assert module.loss == pytest.approx(float(sum(losses.values())), rel=1e-5 if micro_batches == 1 else 0.02)
    return {"losses": losses, "gradients": keep.gradients, "passes": len(passes), "norms": norms, "moved": moved}


def same(a, b):
    assert a["gradients"].keys() == b["gradients"].keys() != set()
    for kind in ("losses", "gradients"):
        for name, value in a[kind].items():
            torch.testing.assert_close(b[kind][name], value, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def whole():
    return step(1)


# of a quota of 40 regions the images have 27, 25, 28 and 25
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_equal_the_whole_batch(whole, micro_batches):
    assert whole["passes"] == 1
    same(whole, step(micro_batches))


def two_processes(micro_batches, norm, non_finite_rank=None):
    """Return rank 0's result of the step in two processes."""
    return two_ranks(one_of_two, micro_batches, norm, non_finite_rank)[0]


def as_tensors(result):
    return tree_map_only(np.ndarray, torch.from_numpy, result)


def one_of_two(micro_batches, norm, non_finite_rank):
    result = step(micro_batches, norm=norm, rank=distributed.rank(), world=2, non_finite_rank=non_finite_rank)
    return tree_map_only(torch.Tensor, lambda x: x.detach().numpy(), result)  # arrays are sent whole, not by handle


@pytest.mark.parametrize(("micro_batches", "norm"), [(2, "frozen_bn"), (1, "sync_bn")])
def test_two_processes_equal_one(whole, micro_batches, norm):
    two = as_tensors(two_processes(micro_batches, norm))
    assert two["moved"]
    if norm == "frozen_bn":
        same(whole, two)
        return
    whole = step(1, norm="bn")  # torch.nn.BatchNorm2d
    same(whole, two)
    for name, value in whole["norms"].items():
        torch.testing.assert_close(two["norms"][name], value, rtol=1e-9, atol=1e-12)


def test_non_finite_loss_on_one_rank_skips_the_step_on_all():
    two = as_tensors(two_processes(2, "sync_bn", non_finite_rank=1))
    assert [name for name in two["moved"] if "num_batches" not in name] == []


def test_earlier_micro_batches_are_recomputed_with_too_few_regions():
    cut = step(4, quota=20)  # which all images have
    assert cut["passes"] == 4
    same(step(1, quota=20), cut)
    assert step(4)["passes"] > 4


def test_norm_statistics_count_each_micro_batch_once():
    """With batch norms micro-batches differ from the whole batch, but each must update the statistics once."""
    full, short = step(4, quota=20, norm="bn"), step(4, norm="bn")
    assert short["passes"] > full["passes"] == 4
    for name, value in full["norms"].items():
        if not name.startswith("roi_head"):  # whose norms see different regions
            torch.testing.assert_close(short["norms"][name], value, rtol=0, atol=0)
