"""Chunked head losses: the same losses and gradients as unchunked, with less memory."""

import pytest
import torch
from torch import nn

from detection import build_model
from detection.config import ModelConfig, RoIConfig, RPNConfig
from detection.ops.chunked_loss import chunked_backward

pytestmark = pytest.mark.usefixtures("thin_networks")
TARGETS = [
    {"boxes": torch.tensor([[20.0, 20, 90, 100], [40, 40, 124, 90]]), "labels": torch.tensor([1, 3])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def detector(roi=(), **options):
    torch.manual_seed(0)
    roi = dict(roi)
    config = ModelConfig(
        backbone="resnet18",
        **{"norm": "frozen_bn"} | options,
        rpn=RPNConfig(after_nms_train=60),
        roi=RoIConfig(batch_per_image=32, resolution=4, append_truth=True, **roi),
    )
    return build_model(config, 3).train()


def step(model, chunk_size, weights=(1.0, 1.0, 1.0, 1.0), **autocast):
    model.roi_head.chunk_size = chunk_size
    model.zero_grad()
    images = [torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    images = [image.to(next(model.parameters()).dtype) for image in images]
    targets = [{"boxes": t["boxes"].to(images[0]), "labels": t["labels"]} for t in TARGETS]
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(autocast)):
        losses = model(images, targets, generator=torch.Generator().manual_seed(5))
    sum(w * loss for w, loss in zip(weights, losses.values(), strict=True)).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_size", [1, 7, 32, 63])
@pytest.mark.parametrize("weights", [(1.0,) * 4, (0.5,) * 4, (1.0, 1.0, 0.3, 2.0)], ids=str)
def test_chunked_losses_and_gradients_equal_unchunked(chunk_size, weights):
    model = detector().double()
    whole, expected = step(model, None, weights)
    parts, result = step(model, chunk_size, weights)
    assert whole["loss_box"] > 0
    assert result.keys() == expected.keys()
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-12, atol=0)
    for name in expected:
        torch.testing.assert_close(
            result[name], expected[name], rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )


WEIGHTED = {"class_weights": (0.5, 3.0, 1.0, 0.2), "focal_gamma": 2.0}


@pytest.mark.parametrize("padded", [False, True])
def test_weighted_focal_losses_equal_unchunked(padded):
    model = detector(WEIGHTED).double()
    model.padded = padded
    whole, expected = step(model, None)
    parts, result = step(model, 7)
    plain, _ = step(detector().double(), None)
    assert whole["loss_classifier"] != plain["loss_classifier"]
    assert whole["loss_box"] == plain["loss_box"]  # its weights are the box loss's own
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-12, atol=0)
    for name in expected:
        torch.testing.assert_close(result[name], expected[name], rtol=1e-9, atol=1e-12)


def test_weighted_focal_losses_of_both_forms_are_equal():
    compact, padded = detector(WEIGHTED), detector(WEIGHTED)
    padded.padded = True
    (losses, gradients), (same_losses, same_gradients) = step(compact, None), step(padded, None)
    for name, value in losses.items():
        torch.testing.assert_close(same_losses[name], value, rtol=1e-6, atol=0)
    for name, value in gradients.items():
        torch.testing.assert_close(same_gradients[name], value, rtol=1e-4, atol=1e-6)


def test_half_precision_accumulates_chunks_in_float32():
    model = detector()
    _, exact = step(model, None)
    _, whole = step(model, None, bf16=True)
    _, parts = step(model, 1, bf16=True)

    def error(result):
        return max(((result[n] - exact[n]).norm() / exact[n].norm()).item() for n in exact)

    assert error(parts) < 1.5 * error(whole)


def test_half_precision_with_unequal_weights():
    model = detector()
    weights = (1.0, 1.0, 0.3, 2.0)
    _, exact = step(model, None, weights)
    _, whole = step(model, None, weights, bf16=True)
    _, parts = step(model, 7, weights, bf16=True)  # the gradient is taken outside of autocast
    for name in exact:
        error = (whole[name] - exact[name]).norm()
        assert (parts[name] - exact[name]).norm() <= 1.5 * error + 1e-2 * exact[name].norm(), name


def test_batch_norms_see_the_whole_batch():
    model = detector(norm="bn", freeze_at=0)
    before = int(model.roi_head.head.layer4[0].bn1.num_batches_tracked)
    step(model, 7)
    assert int(model.roi_head.head.layer4[0].bn1.num_batches_tracked) == before + 1


def test_frozen_trunk_and_frozen_head():
    for part in ("trunk", "roi_head"):
        model = detector()
        getattr(model, part).requires_grad_(False)
        _, expected = step(model, None)
        _, result = step(model, 7)
        assert result.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(result[name], expected[name], rtol=1e-3, atol=1e-5)


def test_nothing_sampled():
    model = detector()
    model.roi_head.sampler.quota = 0
    losses, gradients = step(model, 7)
    assert losses["loss_classifier"].item() == losses["loss_box"].item() == 0
    assert gradients["rpn.conv.weight"].any()


def test_only_one_chunk_is_in_memory():
    layer, x = nn.Linear(4, 4), torch.randn(100, 4)
    chunk_sizes = []

    def losses(rows):
        y = layer(x[rows])
        chunk_sizes.append(len(y))
        return torch.stack([y.square().sum(), y.abs().sum()])

    a, b = chunked_backward(losses, 100, 30, list(layer.parameters()))
    assert chunk_sizes == [30, 30, 30, 10]
    (a + b).backward()
    assert len(chunk_sizes) == 4  # a plain sum needs no second pass
    result = layer.weight.grad.clone()
    layer.zero_grad()
    losses(slice(0, 100)).sum().backward()
    torch.testing.assert_close(result, layer.weight.grad)


def test_detections_do_not_depend_on_chunk_size():
    model = detector().double().eval()
    nn.init.normal_(model.roi_head.classes.weight, std=1.0)
    images = [torch.rand(3, 96, 128).double(), torch.rand(3, 80, 100).double()]
    answers = []
    for chunk_size in (None, 7):
        model.roi_head.chunk_size = chunk_size
        answers.append(model(images))
    for whole, parts in zip(*answers, strict=True):
        assert len(whole["boxes"])
        for name in whole:
            torch.testing.assert_close(parts[name], whole[name], rtol=1e-10, atol=1e-10)
