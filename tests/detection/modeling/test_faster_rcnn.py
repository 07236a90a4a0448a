"""The detector with a stub trunk, and equality with torchvision's FasterRCNN on the same weights."""

from typing import ClassVar

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator as TorchvisionAnchors
from torchvision.ops import MultiScaleRoIAlign

from backbone import RECIPES, FeatureSpec
from detection import build_model
from detection.config import AnchorConfig, ModelConfig, RoIConfig, RPNConfig
from detection.modeling.faster_rcnn import FasterRCNN
from detection.modeling.sampler import RandomSampler

CLASSES = 3


class StubHead(nn.Conv2d):
    """A head: RoI features [R, 8, 4, 4] -> [R, 16, 2, 2]."""

    def __init__(self):
        super().__init__(8, 16, 2, 2)


class StubBackbone(nn.Conv2d):
    """A backbone: one convolution with 8 channels and stride 16."""

    specs: ClassVar = {"c4": FeatureSpec(8, 16)}

    def __init__(self):
        super().__init__(3, 8, 16, 16)


def tiny(pool="align", **rpn_options):
    limits = {f"{place}_nms_{mode}": n for place, n in (("before", 200), ("after", 50)) for mode in ("train", "test")}
    return FasterRCNN(
        StubBackbone(),
        CLASSES,
        head=StubHead(),
        anchors={"sizes": [32, 64]},
        rpn={"batch_per_image": 64, **limits, **rpn_options},
        roi={"pool": pool, "resolution": 4, "batch_per_image": 32, "max_detections": 10},
    )


def scene():
    images = [torch.rand(3, 96, 128), torch.rand(3, 128, 80)]
    targets = [
        {"boxes": torch.tensor([[10.0, 10, 60, 70], [50, 20, 120, 90]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.tensor([[5.0, 30, 70, 110]]), "labels": torch.tensor([2])},
    ]
    return images, targets


@pytest.mark.parametrize("pool", ["align", "max"])
def test_losses_and_gradients(pool):
    model, (images, targets) = tiny(pool), scene()
    losses = model(images, targets)
    assert set(losses) == {"loss_objectness", "loss_rpn_box", "loss_classifier", "loss_box"}
    assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_detections_follow_the_convention():
    model, (images, _) = tiny().eval(), scene()
    model.roi_head.score_threshold = 0.0
    for image, detections in zip(images, model(images), strict=True):
        n = len(detections["boxes"])
        assert 0 < n <= 10
        assert detections["boxes"].shape == (n, 4)
        assert detections["labels"].dtype == torch.int64
        assert (detections["scores"].diff() <= 0).all()
        assert ((detections["labels"] >= 1) & (detections["labels"] <= CLASSES)).all()
        assert (detections["boxes"] >= 0).all()
        assert (detections["boxes"][:, 2] <= image.shape[-1]).all()
        assert (detections["boxes"][:, 3] <= image.shape[-2]).all()


def test_rpn_and_roi_head_share_the_feature_map():
    model, (images, targets) = tiny(), scene()
    captured = {}
    model.trunk.register_forward_hook(lambda m, i, o: captured.update(trunk=o))
    model.rpn.register_forward_pre_hook(lambda m, i: captured.update(rpn=i[0]))
    model.roi_head.pooler.register_forward_pre_hook(lambda m, i: captured.update(pooler=i[0]))
    model(images, targets)
    assert captured["rpn"] is captured["trunk"]
    assert captured["pooler"] is captured["trunk"]


def test_images_without_objects():
    model = tiny()
    images, targets = scene()
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    for choice in ([empty, targets[1]], [empty, empty]):
        losses = model(images, choice)
        assert all(loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
    assert model(images, [empty, empty])["loss_box"].item() == 0


def test_thousand_objects():
    model = tiny()
    corner = torch.rand(1000, 2) * 400
    target = {"boxes": torch.cat((corner, corner + 20), 1), "labels": torch.randint(1, 4, (1000,))}
    losses = model([torch.rand(3, 448, 448)], [target])
    assert all(loss.isfinite() for loss in losses.values())


def test_cross_boundary_anchors_are_ignored():
    keep, ignore = tiny(), tiny(ignore_cross_boundary=True)
    captured = []
    ignore.rpn.sampler = lambda label, g: captured.append(label) or RandomSampler(64, 0.5)(label, g)
    ignore.rpn.sampler.__dict__["quota"] = 64
    images, targets = scene()
    ignore(images, targets)
    keep(images, targets)
    anchors = ignore.rpn.anchors[0](8, 8)
    outside = (anchors[:, :2] < 0).any(1) | (anchors[:, 2] > 128) | (anchors[:, 3] > 96)
    assert (captured[0][outside] == -1).all()
    assert (captured[0][~outside] >= 0).any()


def test_small_proposals_are_removed():
    model = tiny(min_size=40.0).eval()
    images, _ = scene()
    with torch.no_grad():
        batch = model.batch(images)
        proposals = model.rpn.proposals(model.rpn(model.trunk(batch)), [(96, 128), (128, 80)])
    for boxes in proposals:
        assert len(boxes)
        assert ((boxes[:, 2:] - boxes[:, :2]) >= 40).all()


def test_padding_is_zero_after_normalisation():
    batch = tiny().batch([torch.ones(3, 4, 6), torch.zeros(3, 5, 3)])
    assert batch.shape == (2, 3, 16, 16)  # a multiple of the stub's stride
    assert (batch[0, :, 4:] == 0).all()
    assert (batch[1, :, :, 3:] == 0).all()
    torch.testing.assert_close(batch[0, 0, 0, 0].item(), (1 - 0.485) / 0.229, rtol=1e-6, atol=1e-6)


def test_bgr_recipes():
    image = torch.rand(3, 4, 5)
    out = RECIPES["detectron2"].normalise(image)
    torch.testing.assert_close(out[0], image[2] * 255 - 103.53)
    torch.testing.assert_close(out[2], image[0] * 255 - 123.675)


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        ([], [], "at least one"),
        ([torch.zeros(3, 32, 32, dtype=torch.uint8)], None, "float tensor"),
        ([torch.zeros(1, 32, 32)], None, r"\[3, H, W\], got \[1, 32, 32\]"),
        ([torch.rand(3, 64, 64)], None, "training wants targets"),
        ([torch.rand(3, 64, 64)], [], "1 images but 0 targets"),
        ([torch.rand(3, 64, 64)], [{"boxes": torch.tensor([[5.0, 5, 5, 9]]), "labels": torch.tensor([1])}], "x1 < x2"),
        ([torch.rand(3, 64, 64)], [{"boxes": torch.tensor([[5.0, 5, 9, 9]]), "labels": torch.tensor([4])}], r"1\.\.3"),
        (
            [torch.rand(3, 64, 64)],
            [{"boxes": torch.tensor([[5.0, 5, 9, 9]]), "labels": torch.tensor([0])}],
            "background",
        ),
        ([torch.rand(3, 64, 64)], [{"boxes": torch.ones(4), "labels": torch.tensor([1])}], r"\[n, 4\]"),
    ],
)
def test_invalid_input_raises(images, targets, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tiny()(images, targets)


class MeanHead(nn.Module):
    def __init__(self, conv5):
        super().__init__()
        self.conv5 = conv5

    def forward(self, x):
        return self.conv5(x).mean((2, 3))


class Predictor(nn.Module):
    """torchvision also predicts deltas for the background, which are never used."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x):
        background = torch.zeros(len(x), 4)
        return self.head.classes(x), torch.cat((background, self.head.deltas(x)), dim=1)


class First:
    """A deterministic sampler: the first candidates of each kind."""

    def __init__(self, quota, foreground):
        self.quota, self.foreground = quota, foreground

    def __call__(self, label, generator=None):
        if isinstance(label, list):  # torchvision's interface: masks per image
            return self._masks(label)
        foreground = (label == 1).nonzero()[:, 0][: self.foreground]
        index = torch.cat((foreground, (label == 0).nonzero()[:, 0][: self.quota - len(foreground)]))
        return index, label[index]

    def _masks(self, labels):
        pairs = [self((label >= 1).to(torch.int8) - (label < 0).to(torch.int8)) for label in labels]
        masks = []
        for kind in (1, 0):
            column = [torch.zeros(len(lab), dtype=torch.bool) for lab in labels]
            for mask, (index, kinds) in zip(column, pairs, strict=True):
                mask[index[kinds == kind]] = True
            masks.append(column)
        return masks


def make_models():
    """Return ResDet's and torchvision's detector with the same weights and settings; one aspect ratio and even anchor sizes,
    since torchvision rounds anchors."""
    config = ModelConfig(
        backbone="resnet18",
        norm="bn",
        freeze_at=0,
        anchors=AnchorConfig((32, 64, 128), (1.0,)),
        rpn=RPNConfig(
            before_nms_train=600,
            after_nms_train=200,
            before_nms_test=600,
            after_nms_test=100,
            beta=1 / 9,
            batch_per_image=64,
        ),
        roi=RoIConfig(sampling_ratio=2, aligned=False, beta=1 / 9, batch_per_image=32, score_threshold=0.0),
    )
    resdet_model = build_model(config, CLASSES).eval()
    nn.init.normal_(resdet_model.rpn.objectness.weight, std=0.05)  # distinct scores, which have one order
    nn.init.normal_(resdet_model.rpn.deltas.weight, std=0.05)  # so that NMS suppresses boxes
    nn.init.normal_(resdet_model.roi_head.deltas.weight, std=0.05)
    nn.init.normal_(resdet_model.roi_head.classes.weight, std=0.5)
    resdet_model.trunk.out_channels = resdet_model.trunk.spec.channels
    torchvision_model = TorchvisionFasterRCNN(
        resdet_model.trunk,
        min_size=192,
        max_size=400,
        rpn_anchor_generator=TorchvisionAnchors(((32, 64, 128),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, 2),
        box_head=MeanHead(resdet_model.roi_head.head),
        box_predictor=Predictor(resdet_model.roi_head),
        rpn_pre_nms_top_n_train=600,
        rpn_post_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=600,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=32,
        box_score_thresh=0.0,
    ).eval()
    torchvision_model.rpn.head.conv[0][0] = resdet_model.rpn.conv
    torchvision_model.rpn.head.cls_logits, torchvision_model.rpn.head.bbox_pred = (
        resdet_model.rpn.objectness,
        resdet_model.rpn.deltas,
    )
    return resdet_model, torchvision_model


def test_detections_equal_torchvision():
    resdet_model, torchvision_model = (
        model.double() for model in make_models()
    )  # in float32 CPUs differ in rounding, by more than these bounds
    images = [torch.rand(3, 192, 256).double(), torch.rand(3, 192, 224).double()]  # torchvision pads to multiples of 32
    with torch.no_grad():
        for a, b in zip(resdet_model(images), torchvision_model(images), strict=True):
            assert len(a["boxes"]) == len(b["boxes"]) == 100
            torch.testing.assert_close(a["scores"], b["scores"], rtol=0, atol=1e-5)
            assert torch.equal(a["labels"], b["labels"])
            torch.testing.assert_close(a["boxes"], b["boxes"], rtol=1e-5, atol=2e-3)


def test_losses_equal_torchvision_for_the_same_samples():
    resdet_model, torchvision_model = make_models()
    images = [torch.rand(3, 192, 256), torch.rand(3, 192, 256)]
    targets = [
        {"boxes": torch.tensor([[20.0, 20, 90, 100], [100, 40, 240, 180]]), "labels": torch.tensor([1, 3])},
        {"boxes": torch.tensor([[60.0, 30, 130, 150]]), "labels": torch.tensor([2])},
    ]
    resdet_model.rpn.sampler, resdet_model.roi_head.sampler = First(64, 32), First(32, 8)
    torchvision_model.rpn.fg_bg_sampler, torchvision_model.roi_heads.fg_bg_sampler = First(64, 32), First(32, 8)
    for model in (resdet_model, torchvision_model):
        model.train()
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eval()
    a, b = resdet_model(images, targets), torchvision_model(images, targets)
    names = {
        "loss_objectness": "loss_objectness",
        "loss_rpn_box": "loss_rpn_box_reg",
        "loss_classifier": "loss_classifier",
        "loss_box": "loss_box_reg",
    }
    for name, torchvision_name in names.items():
        torch.testing.assert_close(a[name], b[torchvision_name], rtol=1e-5, atol=1e-6)
    assert a["loss_box"] > 0
    # in earlier layers ReLUs that flip by rounding add larger differences
    watched = [
        resdet_model.rpn.conv.weight,
        resdet_model.roi_head.classes.weight,
        resdet_model.roi_head.deltas.weight,
        resdet_model.roi_head.head.layer4[1].conv2.weight,
        resdet_model.trunk.layer3[1].conv2.weight,
    ]
    grads = []
    for losses in (a, b):
        resdet_model.zero_grad()
        sum(losses.values()).backward()
        grads.append([p.grad.clone() for p in watched])
    for grad, expected in zip(*grads, strict=True):
        assert (grad - expected).norm() <= 1e-4 * expected.norm()


def test_build_requires_a_class():
    with pytest.raises(ValueError, match="at least one class"):
        build_model(ModelConfig(backbone="resnet18"), 0)


def times(factor, shift=0.0):
    return [image * factor + shift for image in scene()[0]]


@pytest.mark.parametrize("training", [True, False])
def test_images_far_from_0_to_1_are_refused(training):
    model, targets = tiny().train(training), scene()[1]
    with pytest.raises(
        ValueError, match=r"image 0 has values 0\.\d+\.\.25\d\.?\d*: wanted RGB in 0\.\.1; divide bytes by 255"
    ):
        model(times(255), targets)


def test_normalised_images_are_warned_of_once(caplog):
    model = tiny().eval()
    model(scene()[0])
    model([torch.full((3, 32, 32), 1.2), torch.full((3, 32, 32), -0.2)])  # what interpolation leaves
    assert not caplog.text
    for _ in range(2):
        model(times(4.4, -2.1))
    assert caplog.text.count("and RGB in 0..1 is wanted: is it normalised already?") == 1
    assert "image 0 has values -2.1" in caplog.text
