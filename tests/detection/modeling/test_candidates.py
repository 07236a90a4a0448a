import pytest
import torch

from detection.modeling.candidates import Candidates, candidates_of, union, vote

# IoU of A and B is 90 / 110, of A and C 50 / 150
A, B, C = [0.0, 0, 10, 10], [1.0, 0, 11, 10], [5.0, 0, 15, 10]


def candidates(boxes, scores, labels):
    return Candidates(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels))


def detections(box, score, label):
    return {"boxes": torch.tensor([box]), "scores": torch.tensor([score]), "labels": torch.tensor([label + 1])}


def test_a_vote_is_the_mean_of_boxes_weighted_by_scores():
    """C overlaps A by a third alone: (0.9 A + 0.6 B) / 1.5."""
    before = candidates([A, B, C], [0.9, 0.6, 0.5], [0, 0, 0])
    after = vote(detections(A, 0.9, 0), before)
    torch.testing.assert_close(after["boxes"], torch.tensor([[0.4, 0, 10.4, 10]]))
    assert after["scores"].tolist() == [pytest.approx(0.9)]
    shuffled = candidates([C, B, A], [0.5, 0.6, 0.9], [0, 0, 0])
    torch.testing.assert_close(vote(detections(A, 0.9, 0), shuffled)["boxes"], after["boxes"])


def test_classes_do_not_vote_for_each_other_and_a_lone_candidate_stays():
    before = candidates([A, B], [0.9, 0.6], [0, 1])
    assert vote(detections(A, 0.9, 0), before)["boxes"].tolist() == [A]
    assert vote(detections(B, 0.6, 1), before)["boxes"].tolist() == [B]


def test_scores_below_the_threshold_padding_and_overflow_do_not_vote():
    before = candidates([A, B, B, [float("inf")] * 4], [0.9, 0.04, 0.0, 0.8], [0, 0, 0, 0])
    assert vote(detections(A, 0.9, 0), before, threshold=0.05)["boxes"].tolist() == [A]
    padded = detections([0.0] * 4, 0.0, 0)
    assert vote(padded, before)["boxes"].tolist() == [[0.0] * 4]
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    assert vote(none, before)["boxes"].shape == (0, 4)


def test_every_region_is_a_candidate_of_every_class():
    scores, boxes = torch.tensor([[0.1, 0.2], [0.3, 0.4]]), torch.arange(16.0).view(2, 2, 4)
    flat = candidates_of(scores, boxes)
    assert flat.labels.tolist() == [0, 1, 0, 1]
    assert flat.boxes[1].tolist() == boxes[0, 1].tolist()
    both = union([flat, flat])
    assert both.scores.tolist() == flat.scores.tolist() * 2
