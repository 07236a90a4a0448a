import pytest
import torch

from detection import build_model
from detection.config import AnchorConfig, ModelConfig, RPNConfig
from detection.modeling.rpn import RPNOutput
from detection.ops.boxes import larger_than

SIZES = [(96, 128), (128, 80)]


def network(architecture, **limits):
    torch.manual_seed(2)
    model = build_model(
        ModelConfig(
            architecture=architecture,
            backbone="resnet18",
            norm="gn",
            anchors=AnchorConfig((16, 32, 64, 128, 256)),
            rpn=RPNConfig(**limits),
        ),
        3,
    )
    torch.nn.init.normal_(model.rpn.objectness.weight, std=0.5)
    torch.nn.init.normal_(model.rpn.deltas.weight, std=0.05)
    return model.eval()


@pytest.mark.parametrize("architecture", ["c4", "fpn"])
@pytest.mark.parametrize(
    "limits",
    [
        {"before_nms_test": 300, "after_nms_test": 50},
        {"before_nms_test": 40, "after_nms_test": 1000},  # more places than boxes
        {"before_nms_test": 10000, "after_nms_test": 200, "min_size": 20.0},
    ],
    ids=["many", "few", "large"],
)
def test_a_fixed_number_of_proposals_are_the_same(architecture, limits):
    """What runs on a GPU, where their number is not known without waiting."""
    rpn = (model := network(architecture, **limits)).rpn
    with torch.no_grad():
        output = rpn(model.trunk(torch.randn(2, 3, 128, 128)))
        output.objectness[0, :7] = torch.nan
        output.deltas[0, 11] = torch.inf
        own = rpn.proposals(output, SIZES)
        # the same way that a device goes
        scores, top, counts = rpn._top(output, rpn.test_limits.before_nms)
        boxes = rpn.coder.decode(output.deltas.gather(1, top[..., None].expand(-1, -1, 4)), output.anchors[top])
        boxes = torch.stack(
            [
                torch.stack((b[:, 0].clamp(0, w), b[:, 1].clamp(0, h), b[:, 2].clamp(0, w), b[:, 3].clamp(0, h)), dim=1)
                for b, (h, w) in zip(boxes, SIZES, strict=True)
            ]
        )
        valid = larger_than(boxes, rpn.min_size) & scores.isfinite()
        fixed = rpn._fixed_number(boxes, scores, valid, counts, rpn.test_limits.after_nms)
    assert fixed.shape == (2, min(rpn.test_limits.after_nms, sum(counts)), 4)
    for mine, theirs in zip(own, fixed, strict=True):
        filled = larger_than(theirs, 0.0)
        assert filled.sum() == len(mine) > 5
        assert torch.equal(theirs[: len(mine)], mine)  # in the same order, the empty places last
        assert not theirs[len(mine) :].any()


def test_no_proposals_are_empty_places():
    rpn = network("c4").rpn
    output = RPNOutput(torch.full((1, 6), torch.nan), torch.zeros(1, 6, 4), torch.rand(6, 4), (6,))
    assert rpn.proposals(output, [(10, 10)])[0].shape == (0, 4)
    fixed = rpn._fixed_number(torch.rand(1, 6, 4), output.objectness, torch.zeros(1, 6, dtype=torch.bool), (6,), 4)
    assert fixed.tolist() == [[[0.0] * 4] * 4]
