"""torch.compile compiles the networks without graph breaks, for any image size and number of regions."""

import pytest
import torch

from detection import build_model
from detection.checkpoint.metadata import Classes
from detection.config import AnchorConfig, Config, ModelConfig, RoIConfig
from detection.training.detection_module import DetectionModule

SLOW = [("c4", True), ("c4", False), ("dc5", False), ("fpn", True)]
# one of each here, the others take a minute
CASES = [("dc5", True), ("fpn", False), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.mark.parametrize(("architecture", "training"), CASES)
def test_no_graph_breaks(architecture, training):
    torch._dynamo.reset()
    model = build_model(
        ModelConfig(
            backbone="resnet50" if architecture == "c4" else "resnet18",
            norm="frozen_bn",
            architecture=architecture,
            anchors=AnchorConfig((32, 64, 128, 256, 512)),
            roi=RoIConfig(resolution=7, fc_channels=16),
        ),
        3,
    ).train(training)
    module = DetectionModule(model, Config(), Classes(("a", "b", "c"), (1, 2, 3)))
    trunk, rpn, head = (
        torch.compile(part, fullgraph=True, dynamic=True, backend="eager") for part in module.parts_to_compile()
    )
    for height, width, regions in ((96, 128, 5), (128, 64, 9)):
        features = trunk(torch.rand(1, 3, height, width))
        output = rpn(features)
        boxes = torch.tensor([[0.0, 10, 10, 60, 60]]).repeat(regions, 1)
        pooled = model.roi_head.pooler(features, boxes)
        torch.testing.assert_close(head(pooled), model.roi_head.head(pooled))
        torch.testing.assert_close(output.objectness, model.rpn(features).objectness)
