import pytest
import torch

from detection import build_model
from detection.config import ModelConfig, RoIConfig
from detection.modeling.roi_head import without_padding


def head(**settings):
    torch.manual_seed(0)
    return build_model(
        ModelConfig(backbone="resnet18", norm="gn", roi=RoIConfig(resolution=4, **settings)), 3
    ).roi_head.eval()


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.9])
@pytest.mark.parametrize("nms", ["hard", "soft_linear", "soft_gaussian"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_padded_detections_equal_compact(threshold, nms, agnostic):
    generator = torch.Generator().manual_seed(1)
    options = {"nms": nms, "class_agnostic_nms": agnostic, "nms_iou": 0.3}
    roi_head = head(max_detections=20, score_threshold=threshold, **options)
    corner = torch.rand(30, 2, generator=generator) * 60
    proposals = torch.cat((corner, corner + 10 + torch.rand(30, 2, generator=generator) * 50), dim=1)
    scores = torch.randn(30, 4, generator=generator).mul(3).softmax(dim=1)[:, 1:]
    scores[4, 1] = torch.nan
    deltas = torch.randn(30, 3, 4, generator=generator)
    deltas[5, 0], deltas[6, 1, 2], deltas[7, 2, 0] = torch.nan, torch.nan, torch.inf
    expected = roi_head._postprocess(proposals, scores, deltas, (96, 128))
    assert expected["boxes"].isfinite().all()
    # padded slots must give no detection, whatever their scores
    slots = torch.cat((proposals, torch.zeros(5, 4)))
    scores, deltas = (torch.cat((x, torch.ones(5, *x.shape[1:]))) for x in (scores, deltas))
    result = roi_head._postprocess_padded(slots, scores, deltas, (96, 128))
    assert len(result["boxes"]) == 20
    (result,) = without_padding([result])
    assert len(expected["boxes"]) > (0 if threshold > 0.5 else 10)
    for key, value in expected.items():
        assert torch.equal(result[key], value), key


def detections(proposals, scores, **settings):
    """Detections of a head whose offsets are zero, in both forms."""
    roi_head = head(score_threshold=0.05, max_detections=5, **settings)
    args = (torch.tensor(proposals), torch.tensor(scores), torch.zeros(len(proposals), 3, 4), (96, 128))
    compact = roi_head._postprocess(*args)
    (padded,) = without_padding([roi_head._postprocess_padded(*args)])
    assert all(torch.equal(padded[key], value) for key, value in compact.items())
    return [
        (d.tolist(), int(k), round(float(s), 4))
        for d, k, s in zip(*(compact[k] for k in ("boxes", "labels", "scores")), strict=True)
    ]


def test_classes_suppress_each_other_where_asked():
    """One region that looks like two classes, and another beside it with an IoU of 1/3."""
    regions, scores = [[0.0, 0, 40, 40], [20, 0, 60, 40]], [[0.6, 0.3, 0.0], [0.0, 0.5, 0.0]]
    first, second = [0, 0, 40, 40], [20, 0, 60, 40]
    assert detections(regions, scores) == [(first, 1, 0.6), (second, 2, 0.5), (first, 2, 0.3)]
    assert detections(regions, scores, class_agnostic_nms=True) == [(first, 1, 0.6), (second, 2, 0.5)]
    assert detections(regions, scores, class_agnostic_nms=True, nms_iou=0.3) == [(first, 1, 0.6)]
    soft = detections(regions, scores, nms="soft_linear", nms_iou=0.3)
    assert soft == [(first, 1, 0.6), (second, 2, 0.5), (first, 2, 0.2)]
    with pytest.raises(ValueError, match="nms must be one of hard"):
        head(nms="soft")


def test_padded_slots_are_not_sampled():
    roi_head = head(batch_per_image=8, append_truth=False)
    target = {"boxes": torch.tensor([[0.0, 0, 20, 20]]), "labels": torch.tensor([2])}
    proposals = torch.tensor([[0.0, 0, 20, 20], [0, 0, 0, 0], [40, 40, 60, 60], [0, 0, 0, 0]])
    boxes, labels, _ = roi_head._sample(proposals, target, None, padded=False)
    assert boxes.tolist() == [[0, 0, 20, 20], [40, 40, 60, 60]]
    assert labels.tolist() == [2, 0]
    boxes, labels, _ = roi_head._sample(proposals, target, None, padded=True)
    assert boxes.tolist() == [[0, 0, 20, 20], [40, 40, 60, 60], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert labels.tolist() == [2, 0, -1, -1]
