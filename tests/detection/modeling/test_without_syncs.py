"""A training step on a GPU has no host-device synchronisation: no values are read back or copied from pageable memory.

Without a GPU the step runs on fake tensors with shapes and a device but no values: data-dependent values and shapes raise.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from detection import build_model
from detection.checkpoint.metadata import Classes
from detection.config import AnchorConfig, Config, ModelConfig, RoIConfig, RPNConfig, SolverConfig
from detection.data.loader import Batch, to_device
from detection.training.detection_module import DetectionModule

SIZE = (96, 128)


class NoCopies(TorchDispatchMode):
    """Raise for copies between devices, and for float64 on a GPU: Apple's has none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        devices = {x.device.type for x in tree_leaves((args, out)) if isinstance(x, torch.Tensor) and x.dim()}
        doubles = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor) and x.dtype == torch.float64]
        if any(x.device.type != "cpu" for x in doubles):
            raise AssertionError(f"{func} makes float64 on a GPU")
        if len(devices) > 1 and "copy" in str(func):
            raise AssertionError(f"{func} copies between {devices}")
        return out


def on_a_gpu(config, act):
    with FakeTensorMode(), torch.device("cuda"):
        model = build_model(config, 3)
        images = [torch.rand(3, *SIZE) for _ in range(2)]
        targets = [{"boxes": torch.rand(n, 4), "labels": torch.ones(n, dtype=torch.int64)} for n in (2, 0)]
        with NoCopies():
            act(model, images, targets)


def step(model, images, targets):
    model.train()
    losses = model(images, targets)
    assert all(loss.shape == () and loss.device.type == "cuda" for loss in losses.values())


def detect(model, images, targets):
    model.eval()
    detections = model.detect(model.batch(images), [SIZE] * 2)
    assert [len(d["boxes"]) for d in detections] == [100, 100]


SMALL = {"backbone": "resnet18", "norm": "frozen_bn", "roi": RoIConfig(resolution=4, batch_per_image=16)}


SOFT = {**SMALL, "roi": RoIConfig(resolution=4, batch_per_image=16, nms="soft_gaussian", class_agnostic_nms=True)}


@pytest.mark.parametrize("act", [step, detect])
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(**SMALL),
        ModelConfig(**SMALL, rpn=RPNConfig(ignore_cross_boundary=True)),
        ModelConfig(**SMALL, architecture="fpn", anchors=AnchorConfig((32, 64, 128, 256, 512))),
        ModelConfig(**SOFT),
    ],
    ids=["c4", "papers", "fpn", "soft"],
)
def test_step_has_no_host_device_sync(config, act):
    on_a_gpu(config, act)


def test_check_detects_a_sync():
    def read(model, images, targets):
        float(images[0].sum())

    def count(model, images, targets):
        (images[0] > 0).nonzero()

    def copy(model, images, targets):
        images[0] * torch.ones(3, 1, 1, device="cpu").to("cuda")

    def double(model, images, targets):
        images[0].double()

    for act, error in (
        (read, DataDependentOutputException),
        (count, DynamicOutputShapeException),
        (copy, AssertionError),
        (double, AssertionError),
    ):
        with pytest.raises(error):
            on_a_gpu(ModelConfig(**SMALL), act)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["c4", "fpn"])
def test_gpu_step_has_no_sync(architecture):
    sizes = AnchorConfig((32, 64, 128, 256, 512))
    model = build_model(ModelConfig(**SMALL, architecture=architecture, anchors=sizes), 3).cuda().train()
    images = [torch.rand(3, *SIZE, device="cuda") for _ in range(2)]
    box = torch.tensor([[10.0, 10, 60, 70]], device="cuda")
    targets = [{"boxes": box, "labels": torch.ones(1, dtype=torch.int64, device="cuda")}] * 2
    sum(model(images, targets).values()).backward()  # kernels are compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        sum(model(images, targets).values()).backward()
        with torch.no_grad():
            model.eval().detect(model.batch(images), [SIZE] * 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_batch_of_the_loader_trains_on_a_gpu(monkeypatch):
    """From uint8 images on the host to updated weights: moved once, then nothing is mixed between devices or read back."""
    config = Config(model=ModelConfig(**SMALL), solver=SolverConfig(clip_norm=1.0, optimizer="adamw", max_iter=5))
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *args, **kwargs: self)  # channels_last: no fake tensor can
    with FakeTensorMode():
        images = [torch.zeros(3, *SIZE, dtype=torch.uint8) for _ in range(2)]
        targets = [{"boxes": torch.rand(n, 4), "labels": torch.ones(n, dtype=torch.int64)} for n in (2, 0)]
        batch = Batch(images, targets, [0, 1], [SIZE] * 2, [True] * 2)
        with torch.device("cuda"):
            module = DetectionModule(build_model(config.model, 3), config, Classes(("a", "b", "c"), (1, 2, 3)))
        moved = to_device(batch, torch.device("cuda"))
        assert all(image.device.type == "cuda" for image in moved.images)
        with NoCopies(), torch.device("cuda"):
            losses = module.compute_losses(moved, None)
            assert torch.stack(list(losses.values())).sum().device.type == "cuda"
            for parameter in module.model.parameters():  # autograd's engine wants a driver
                parameter.grad = torch.empty_like(parameter)
            optimizer = module.configure_optimizers()["optimizer"]
            module.on_before_optimizer_step(optimizer)
            optimizer.step()
        assert module.gradient_norm.device.type == "cuda"
        assert {p.device.type for p in module.parameters()} == {"cuda"}
