import numpy as np
import pytest
from scenes import random_case

from detection.analysis.bootstrap import WeightedAP, bootstrap, bootstrap_weights, influence, interval, summary
from detection.analysis.matching import average_precision, match
from detection.analysis.scene import overlapping_pairs, scene_from_coco
from detection.evaluation.coco import coco_metrics


def analysed(ground_truth, detections):
    scene = scene_from_coco(ground_truth, detections)
    return scene, match(scene, overlapping_pairs(scene))


@pytest.mark.parametrize("seed", range(3))
def test_equal_weights_give_cocos_numbers(seed):
    ground_truth, detections = random_case(seed)
    scene, matches = analysed(ground_truth, detections)
    ap, recall = WeightedAP(scene, matches)(np.ones(len(scene.image_ids)))
    assert ap == pytest.approx(average_precision(scene, matches), abs=1e-12)
    metrics, _ = coco_metrics(ground_truth, detections)
    for name, value in summary(ap, recall).items():
        assert value == pytest.approx(metrics[name], abs=1e-12), name


def test_weights_are_repetitions():
    """An image of weight 3 counts as three copies of it, one of weight 0 as if it were not there."""
    ground_truth, detections = random_case(5, images=6)
    rng = np.random.default_rng(0)
    detections = [{**d, "score": float(rng.random())} for d in detections]
    weights = [3, 0, 1, 2, 1, 0]
    copies = {"categories": ground_truth["categories"], "images": [], "annotations": []}
    repeated = []
    for image, weight in zip(ground_truth["images"], weights, strict=True):
        for k in range(weight):
            new = image["id"] * 10 + k
            copies["images"].append({**image, "id": new})
            copies["annotations"] += [
                {**a, "image_id": new} for a in ground_truth["annotations"] if a["image_id"] == image["id"]
            ]
            repeated += [{**d, "image_id": new} for d in detections if d["image_id"] == image["id"]]
    copies["annotations"] = [{**a, "id": i} for i, a in enumerate(copies["annotations"], 1)]
    metrics, _ = coco_metrics(copies, repeated)
    scene, matches = analysed(ground_truth, detections)
    values = summary(*WeightedAP(scene, matches)(np.array(weights, dtype=float)))
    for name, value in values.items():
        # copies of a detection share its score: COCO counts them one by one, and only the last precision of them is ours
        assert value == pytest.approx(metrics[name], abs=0.02 if name.startswith("AP") else 1e-12), name


def test_draws_repeat_themselves_and_sum_to_the_images():
    weights = bootstrap_weights(7, 5, seed=3)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == bootstrap_weights(7, 5, seed=3)).all()
    assert (weights != bootstrap_weights(7, 5, seed=4)).any()


def test_interval():
    assert interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert interval(np.array([np.nan, np.nan, 1.0])) is None
    assert interval(np.array([1.0, 1.0, np.nan])) == (1, 1)


def test_coverage_of_a_mean():
    """The percentile interval of a mean of 60 skewed values holds the truth in about 95 % of 300 draws."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        values = rng.exponential(1.0, 60)
        drawn = bootstrap(lambda w, v=values: np.asarray((w * v).sum() / w.sum()), len(values), 200, seed=trial)
        low, high = interval(drawn)
        held += low <= 1 <= high
    assert 0.88 <= held / 300 <= 0.98


def test_influence_is_what_leaving_an_image_out_changes():
    """To first order: beside the area under the plain curve computed again without each image."""
    ground_truth, detections = random_case(7, images=80, classes=2)
    rng = np.random.default_rng(0)
    detections = [{**d, "score": float(rng.random())} for d in detections]

    def area(without=None):
        keep = {im["id"] for im in ground_truth["images"] if im["id"] != without}
        truth = {**ground_truth, "images": [im for im in ground_truth["images"] if im["id"] in keep]}
        truth["annotations"] = [a for a in ground_truth["annotations"] if a["image_id"] in keep]
        scene, matches = analysed(truth, [d for d in detections if d["image_id"] in keep])
        result = []
        for k in np.flatnonzero(scene.object_count):
            part = np.flatnonzero((scene.label == k) & ~matches.ignored[0])
            part = part[np.argsort(-scene.score[part], kind="stable")]
            true = matches.true_positive[0][part]
            result.append((np.cumsum(true) / np.arange(1, len(part) + 1))[true].sum() / scene.object_count[k])
        return np.mean(result)

    scene, matches = analysed(ground_truth, detections)
    estimated = influence(scene, matches)
    whole = area()
    actual = np.array([area(image) - whole for image in scene.image_ids])
    assert np.corrcoef(estimated, actual)[0, 1] > 0.98
    assert np.abs(estimated - actual).max() < 0.15 * np.abs(actual).max()
    assert abs(estimated.sum()) < 1e-9  # a derivative: twice as many of every image change nothing


@pytest.mark.slow
def test_coverage_of_ap():
    """The 95 % interval of AP50 of 60 images holds the AP50 of the population in most of 60 draws."""
    ground_truth, detections = random_case(11, images=600, classes=2)
    scene, matches = analysed(ground_truth, detections)
    truth = summary(*WeightedAP(scene, matches)(np.ones(600)))["AP50"]
    rng = np.random.default_rng(0)
    weighted = WeightedAP(scene, matches)
    held = 0
    for _ in range(60):
        chosen = np.bincount(rng.choice(600, 60, replace=False), minlength=600).astype(float)
        images = np.flatnonzero(chosen)
        drawn = []
        for w in bootstrap_weights(60, 100, seed=int(rng.integers(1 << 30))):
            weights = np.zeros(600)
            weights[images] = w
            drawn.append(summary(*weighted(weights))["AP50"])
        low, high = interval(np.array(drawn))
        held += low <= truth <= high
    assert held / 60 >= 0.85
