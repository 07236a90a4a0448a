"""In detectron2's own models, where it is installed."""

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2 import model_zoo
from detectron2.modeling import build_model

import backbone.adapters.detectron2  # noqa: F401  # adds to the registries


def small(kind):
    cfg = model_zoo.get_config(f"COCO-Detection/faster_rcnn_R_50_{kind}_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8, 32
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    return cfg


@pytest.mark.parametrize("kind", ["C4", "DC5", "FPN"])
def test_a_yaml_of_theirs_with_our_network(kind, tmp_path):
    """The same names, so that checkpoints are exchanged both ways, and the same proposals and detections."""
    torch.manual_seed(0)
    cfg = small(kind)
    theirs = build_model(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = "build_resdet_fpn_backbone" if kind == "FPN" else "build_resdet_backbone"
    if kind == "C4":
        cfg.MODEL.ROI_HEADS.NAME = "ResDetRes5ROIHeads"
    ours = build_model(cfg).eval()
    state = theirs.state_dict()
    assert ours.state_dict().keys() == state.keys()
    ours.load_state_dict(state)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    pictures = [{"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)}]
    with torch.no_grad():
        mine, own = ours(pictures)[0]["instances"], theirs(pictures)[0]["instances"]
        a, b = (m.backbone(m.preprocess_image(pictures).tensor) for m in (ours, theirs))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5 * float(b[name].abs().max()))
    assert len(mine) == len(own)
    torch.testing.assert_close(mine.scores, own.scores, rtol=0, atol=1e-5)
    assert ours.backbone.output_shape() == theirs.backbone.output_shape()
    frozen = {n for n, p in theirs.named_parameters() if not p.requires_grad}
    assert len(frozen) == len([n for n, p in ours.named_parameters() if not p.requires_grad])


def test_what_there_is_not_is_refused():
    cfg = small("C4")
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE = (
        "build_resdet_backbone",
        [False, False, False, True],
    )
    with pytest.raises(ValueError, match="no deformable stages"):
        build_model(cfg)
