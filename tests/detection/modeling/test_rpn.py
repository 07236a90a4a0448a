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
        {"before_nms_test": 40, "after_nms_test": 1000},  # more slots than boxes
        {"before_nms_test": 10000, "after_nms_test": 200, "min_size": 20.0},
    ],
    ids=["many", "few", "large"],
)
def test_padded_proposals_equal_compact(architecture, limits):
    rpn = (model := network(architecture, **limits)).rpn
    with torch.no_grad():
        output = rpn(model.trunk(torch.randn(2, 3, 128, 128)))
        output.objectness[0, :7] = torch.nan
        output.deltas[0, 11] = torch.inf
        compact, padded = rpn.proposals(output, SIZES, padded=False), rpn.proposals(output, SIZES, padded=True)
    counts = [min(rpn.test_limits.before_nms, count) for count in output.counts]
    assert [len(boxes) for boxes in padded] == [min(rpn.test_limits.after_nms, sum(counts))] * 2
    for compact_boxes, padded_boxes in zip(compact, padded, strict=True):
        filled = larger_than(padded_boxes, 0.0)
        assert filled.sum() == len(compact_boxes) > 5
        assert torch.equal(padded_boxes[: len(compact_boxes)], compact_boxes)  # in the same order, padded slots last
        assert not padded_boxes[len(compact_boxes) :].any()


def test_all_padding_without_proposals():
    rpn = network("c4").rpn
    output = RPNOutput(torch.full((1, 6), torch.nan), torch.zeros(1, 6, 4), torch.rand(6, 4), (6,))
    assert rpn.proposals(output, [(10, 10)])[0].shape == (0, 4)
    fixed = rpn._nms_padded(torch.rand(1, 6, 4), output.objectness, torch.zeros(1, 6, dtype=torch.bool), (6,), 4)
    assert fixed.tolist() == [[[0.0] * 4] * 4]
