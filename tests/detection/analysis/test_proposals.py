import numpy as np
import pytest

from detection.analysis.proposals import (
    BACKGROUND,
    BADLY_REFINED,
    BELOW,
    FOUND,
    LIMIT,
    NO_ANCHOR,
    NO_PROPOSAL,
    STAGES,
    SUPPRESSED,
    TAKEN,
    WRONG_CLASS,
    ImageStages,
    best_iou,
    iou_matrix,
    lost_in,
)

SIDE = 20.0


def place(k):
    """The k-th of ten boxes that do not touch."""
    return np.array([100.0 * k, 0, 100 * k + SIDE, SIDE])


def test_one_of_each_stage():
    """Ten objects of class 0 of two, and for each a proposal (but for two) that a stage loses."""
    objects = np.stack([place(k) for k in range(10)])
    on = [k for k in range(10) if k not in (NO_ANCHOR, NO_PROPOSAL)]
    proposals = np.stack([place(k) for k in on])
    probabilities = {
        FOUND: (0.1, 0.8, 0.1),
        BACKGROUND: (0.9, 0.04, 0.06),
        WRONG_CLASS: (0.1, 0.04, 0.86),
        BADLY_REFINED: (0.1, 0.8, 0.1),
        BELOW: (0.3, 0.4, 0.3),
        SUPPRESSED: (0.1, 0.8, 0.1),
        LIMIT: (0.1, 0.7, 0.2),
        TAKEN: (0.1, 0.8, 0.1),
    }
    scores = np.array([probabilities[k] for k in on])
    boxes = np.repeat(proposals[:, None], 2, axis=1)
    boxes[on.index(BADLY_REFINED), 0] += [15, 0, 15, 0]  # IoU 5/35
    kept = np.ones((len(on), 2), dtype=bool)
    kept[on.index(SUPPRESSED), 0] = False
    final = np.array([[on.index(FOUND), 0], [on.index(TAKEN), 0]])
    found = np.zeros(10, dtype=bool)
    found[FOUND] = True
    anchor_iou = np.full(10, 0.6)
    anchor_iou[NO_ANCHOR] = 0.2
    stages = ImageStages(proposals, scores, boxes, kept, final)
    stage = lost_in(stages, objects, np.zeros(10, dtype=np.int64), found, anchor_iou, threshold=0.5)
    assert [STAGES[s] for s in stage] == list(STAGES)
    assert np.bincount(stage[stage != FOUND]).sum() == (~found).sum()  # the counts add up to the misses


def test_a_refined_box_can_reach_an_object_without_a_proposal():
    proposals = np.array([[15.0, 0, 35, 20]])  # IoU 1/7 before it is refined
    stages = ImageStages(
        proposals, np.array([[0.1, 0.9]]), place(0)[None, None], np.zeros((1, 1), bool), np.zeros((0, 2), int)
    )
    stage = lost_in(stages, place(0)[None], np.zeros(1, int), np.zeros(1, bool), np.zeros(1), threshold=0.5)
    assert stage.tolist() == [SUPPRESSED]


def test_best_iou_by_number():
    objects = np.stack([place(0), place(1)])
    boxes = np.array([place(3), place(1), place(0) + np.array([10, 0, 10, 0])])
    assert best_iou(objects, boxes, (1, 2, None)).tolist() == [[0, 0], [0, 1], [pytest.approx(1 / 3), 1]]
    assert best_iou(objects, np.zeros((0, 4))).tolist() == [[0, 0]]
    assert iou_matrix(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0]]
