import math

import torch
from torchvision.models.detection._utils import BoxCoder as TorchvisionCoder

from detection.modeling.box_coder import BoxCoder

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def random_boxes(n):
    corner = torch.rand(n, 2) * 100
    return torch.cat((corner, corner + torch.rand(n, 2) * 100 + 1), dim=1)


def test_computed_by_hand():
    # centre from (5, 5) to (10, 5), reference of side 10: dx is half a width; the width doubles
    reference, box = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.0, 0, 20, 10]])
    torch.testing.assert_close(BoxCoder().encode(box, reference), torch.tensor([[0.5, 0, math.log(2), 0]]))


def test_equals_torchvision():
    boxes, reference = random_boxes(50), random_boxes(50)
    torchvision_coder = TorchvisionCoder(WEIGHTS)
    torch.testing.assert_close(
        BoxCoder(WEIGHTS).encode(boxes, reference),
        torchvision_coder.encode([boxes], [reference])[0],
        rtol=1e-5,
        atol=1e-5,
    )
    deltas = torch.randn(50, 4) * 3
    decoded = torchvision_coder.decode(deltas, [reference])[:, 0]
    torch.testing.assert_close(BoxCoder(WEIGHTS).decode(deltas, reference), decoded, rtol=1e-5, atol=1e-4)


def test_decode_inverts_encode_and_broadcasts():
    coder, boxes, reference = BoxCoder(WEIGHTS), random_boxes(40), random_boxes(40)
    torch.testing.assert_close(coder.decode(coder.encode(boxes, reference), reference), boxes, rtol=1e-4, atol=1e-3)
    assert coder.decode(torch.zeros(2, 40, 4), reference).shape == (2, 40, 4)
    assert coder.encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_scale_is_clamped_and_half_precision_decodes_in_float32():
    far = BoxCoder().decode(torch.tensor([[0.0, 0, 99, 99]]), torch.tensor([[0.0, 0, 16, 16]]))
    torch.testing.assert_close(far[0, 2] - far[0, 0], torch.tensor(1000.0))
    assert BoxCoder().decode(torch.zeros(1, 4, dtype=torch.bfloat16), torch.ones(1, 4)).dtype == torch.float32
