import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator as TorchvisionAnchors

from detection import build_model, load_config
from detection.modeling.anchors import AnchorGenerator, cell_anchors
from detection.modeling.build import anchor_generators


def test_cell_anchors_computed_by_hand():
    # area 32², height / width = 1/4: 64 wide, 16 high
    expected = [[-32, -8, 32, 8], [-16, -16, 16, 16], [-8, -32, 8, 32]]
    assert cell_anchors([32], [0.25, 1, 4]).tolist() == expected
    assert cell_anchors([32, 64], [0.25, 1, 4])[3:].tolist() == [[2 * v for v in row] for row in expected]


def test_anchors_are_ordered_row_by_row():
    anchors = AnchorGenerator([2], [1.0], stride=4)(2, 3)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres.tolist() == [[0, 0], [4, 0], [8, 0], [0, 4], [4, 4], [8, 4]]
    assert AnchorGenerator([2], [1.0], stride=4, offset=0.5)(1, 1).tolist() == [[1, 1, 3, 3]]


def test_equals_torchvision_without_rounding():
    sizes, ratios = (32, 64, 128), (0.25, 1.0, 4.0)
    torchvision_anchors = TorchvisionAnchors((sizes,), (ratios,))
    images = ImageList(torch.zeros(1, 3, 48, 80), [(48, 80)])
    expected = torchvision_anchors(images, [torch.zeros(1, 8, 3, 5)])[0].reshape(15, 3, 3, 4)
    anchors = AnchorGenerator(sizes, ratios, 16)(3, 5).reshape(15, 3, 3, 4)
    assert torch.equal(anchors, expected.transpose(1, 2))  # torchvision has ratios outermost


def test_anchors_are_not_in_the_state_dict():
    generator = AnchorGenerator([32], [1.0], 16)
    assert generator.state_dict() == {}
    assert generator.per_position == 1


@pytest.mark.parametrize(
    "name", ["faster_rcnn_r101.yaml", "faster_rcnn_r50_fpn_1x.yaml", "faster_rcnn_r50_dc5_1x.yaml"]
)
def test_anchors_from_a_configuration_equal_the_detectors(name):
    config = load_config(name).model
    before = torch.get_rng_state()
    generators = anchor_generators(config)
    assert torch.equal(torch.get_rng_state(), before)
    for anchors, expected in zip(generators, build_model(config, 1).rpn.anchors, strict=True):
        assert anchors.stride == expected.stride
        assert torch.equal(anchors(5, 7), expected(5, 7))
