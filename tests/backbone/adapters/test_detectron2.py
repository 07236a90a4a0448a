"""The adapter in detectron2's models; skipped where detectron2 is not installed."""

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2 import model_zoo
from detectron2.modeling import build_model

import backbone.adapters.detectron2  # noqa: F401  # registers the backbones


def small(kind):
    cfg = model_zoo.get_config(f"COCO-Detection/faster_rcnn_R_50_{kind}_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 32
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    return cfg


@pytest.mark.parametrize("kind", ["C4", "DC5", "FPN"])
def test_detectron2_configuration_with_this_backbone(kind, tmp_path):
    """Key names, feature maps and detections equal detectron2's."""
    torch.manual_seed(0)
    cfg = small(kind)
    reference = build_model(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = "build_resdet_fpn_backbone" if kind == "FPN" else "build_resdet_backbone"
    if kind == "C4":
        cfg.MODEL.ROI_HEADS.NAME = "ResDetRes5ROIHeads"
    model = build_model(cfg).eval()
    state = reference.state_dict()
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    images = [{"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)}]
    with torch.no_grad():
        result, expected = model(images)[0]["instances"], reference(images)[0]["instances"]
        a, b = (m.backbone(m.preprocess_image(images).tensor) for m in (model, reference))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5 * float(b[name].abs().max()))
    assert len(result) == len(expected)
    torch.testing.assert_close(result.scores, expected.scores, rtol=0, atol=1e-5)
    assert model.backbone.output_shape() == reference.backbone.output_shape()
    frozen = {n for n, p in reference.named_parameters() if not p.requires_grad}
    assert len(frozen) == len([n for n, p in model.named_parameters() if not p.requires_grad])


def test_unsupported_options_are_rejected():
    cfg = small("C4")
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = (
        "build_resdet_backbone",
        [False, False, False, True],
    )
    with pytest.raises(ValueError, match="no deformable stages"):
        build_model(cfg)
