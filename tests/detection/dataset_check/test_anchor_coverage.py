import math
from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_iou

from detection.config import AnchorConfig, Config, DataConfig, ModelConfig, load_config
from detection.dataset_check.anchor_coverage import (
    anchor_coverage,
    best_anchor_sizes,
    best_overlaps,
    resized_boxes,
    unreached,
)
from detection.modeling.build import anchor_generators

# anchors at every 16 pixels from 0 on
SIZE = (160, 160)


def model(*sizes):
    return ModelConfig(backbone="resnet18", anchors=AnchorConfig(sizes, (1.0,)))


def squares(side, *centres):
    return [(SIZE, torch.tensor([[x - side / 2, y - side / 2, x + side / 2, y + side / 2] for x, y in centres]))]


def test_boxes_follow_their_resized_image():
    config = Config(data=DataConfig(short_side=(30, 50), max_side=90))
    images = [((100, 150), [[10, 20, 30, 60]]), ((100, 200), [[0, 0, 200, 100]]), ((25, 30), [[1, 2, 3, 4]])]
    found = resized_boxes(config, images)
    assert [size for size, _ in found] == [(50, 75), (45, 90), (50, 60)]  # the second is bounded by its longer side
    assert [boxes.tolist() for _, boxes in found] == [[[5, 10, 15, 30]], [[0, 0, 90, 45]], [[2, 4, 6, 8]]]


def test_degenerate_and_non_finite_boxes_are_left_out():
    images = [
        ((50, 50), []),
        ((50, 50), [[5, 5, 5, 9], [9, 9, 5, 5], [0, 0, math.nan, 5], [0, 0, math.inf, 5]]),
        ((50, 50), [[5, 5, 5, 9], [1, 1, 2, 2]]),
    ]
    found = resized_boxes(Config(data=DataConfig(short_side=(50,))), images)
    assert [boxes.tolist() for _, boxes in found] == [[[1, 1, 2, 2]]]


def test_coverage_by_hand():
    """Against a 32-pixel anchor a shift of (4, 0) has an IoU of 28/36 = 0.78, of (8, 0) 24/40 = 0.6, of (8, 8) 0.39."""
    boxes = squares(32.0, (48, 48), (52, 48), (56, 48), (56, 56))
    found = anchor_coverage(model(32.0), boxes)
    assert found["boxes"] == 4
    assert found["matched"] == {"0.5": 0.75, "0.7": 0.5}
    assert found["sides"] == [32, 32, 32]
    assert found["sizes"] == [32]
    assert found["suggestion"] is None


def test_other_sizes_are_suggested_where_they_match_more():
    found = anchor_coverage(model(128.0), squares(16.0, (48, 48), (64, 80)))
    assert found["matched"] == {"0.5": 0, "0.7": 0}
    assert found["suggestion"] == {"sizes": [16.0], "matched": {"0.5": 1, "0.7": 1}}


def test_no_boxes_have_no_coverage():
    assert anchor_coverage(model(32.0), []) == {"boxes": 0}


def test_small_objects_get_sizes_of_their_own():
    sizes, matched, usual = best_anchor_sizes(model(), squares(8.0, (48, 48), (64, 80)))
    assert sizes == (8.0,) * 5
    assert (matched, usual) == (1, 0)
    assert anchor_coverage(model(), squares(8.0, (48, 48)))["sizes"] == [8.0] * 5  # auto


def test_usual_sizes_stay_where_others_match_no_more():
    sizes, matched, usual = best_anchor_sizes(model(), squares(64.0, (80, 80), (64, 64)))
    assert sizes == (32, 64, 128, 256, 512)
    assert matched == usual == 1


def test_suggested_sizes_are_spread_geometrically():
    boxes = [(SIZE, torch.tensor([[0.0, 0, side, side] for side in torch.logspace(2, 6, 201, base=2).tolist()]))]
    found = anchor_coverage(model(512.0, 600.0, 700.0), boxes)
    # 5 % and 95 % of the exponents 2..6: 2.2, 4, 5.8
    assert found["suggestion"]["sizes"] == pytest.approx([round(2**2.2), 16, round(2**5.8)])


@pytest.mark.parametrize(
    "keys", [[], ["model.architecture=fpn"], ["model.anchors.offset=0.5"], ["model.anchors.rounded=true"]]
)
def test_best_overlaps_are_those_with_all_anchors(keys):
    config = load_config("faster_rcnn_r50_c4_1x.yaml", keys)
    generator = torch.Generator().manual_seed(0)
    image_boxes = []
    for size in ((120, 200), (97, 64), (33, 300)):
        corner = torch.rand(60, 2, generator=generator) * torch.tensor([size[1], size[0]])
        # some beyond the last position, and some centred between two
        sides = torch.rand(60, 2, generator=generator) * 90 + 1
        boxes = torch.cat((corner, corner + sides), dim=1)
        boxes[:4] = torch.tensor([8.0, 8, 24, 24]) + torch.arange(4)[:, None] * 8
        image_boxes.append((size, boxes))
    sizes = (16.0, 32.0, 64.0, 128.0, 256.0)
    generators = anchor_generators(replace(config.model, anchors=replace(config.model.anchors, sizes=sizes)))
    wanted = []
    for (height, width), boxes in image_boxes:
        anchors = torch.cat([g(-(-height // g.stride), -(-width // g.stride)) for g in generators])
        wanted.append(box_iou(boxes, anchors).amax(dim=1))
    assert torch.allclose(best_overlaps(config.model, sizes, image_boxes), torch.cat(wanted), atol=1e-5)


def test_unreached_boxes_are_background_to_every_anchor():
    boxes = squares(32.0, (48, 48), (52, 48)) + squares(4.0, (64, 64))
    assert unreached(model(32.0), boxes) == [(2, pytest.approx(16 / 1024), 4.0)]
    assert unreached(model(32.0), []) == []
