import hotcoco
import numpy as np
import pytest
from scenes import det, random_case, truth

from detection.analysis.matching import match
from detection.analysis.scene import overlapping_pairs, scene_from_coco
from detection.analysis.slices import ap_by_group, ap_by_side, attributes, crowding, image_groups, recall_by
from detection.evaluation.coco import coco_metrics

A, B = [0, 0, 10, 10], [5, 0, 10, 20]


def analysed(ground_truth, detections):
    scene = scene_from_coco(ground_truth, detections)
    pairs = overlapping_pairs(scene)
    return scene, pairs, match(scene, pairs)


def test_attributes():
    scene, _, _ = analysed(truth((1, 1, A), (1, 2, B), (2, 1, [40, 20, 40, 10])), [])
    values = attributes(scene)
    assert values["side"].tolist() == pytest.approx([10, 200**0.5, 20])
    assert values["aspect"].tolist() == [1, 2, 0.25]
    assert values["crowding"].tolist() == pytest.approx([0.2, 0.2, 0])  # 50 of 250
    assert values["objects"].tolist() == [2, 2, 1]
    assert values["border"].tolist() == [0, 0, 1]
    unknown = {**truth((1, 1, A)), "images": [{"id": 1}, {"id": 2}]}
    assert np.isnan(attributes(analysed(unknown, [])[0])["border"]).all()


def test_crowding_looks_at_every_pair():
    scene, _, _ = analysed(truth(*((1, 1, [10 * k, 0, 10, 10]) for k in range(4)), (1, 2, A)), [])
    assert crowding(scene).tolist() == [1, 0, 0, 0, 1]


def test_recall_by_bins():
    scene, _, matches = analysed(
        truth((1, 1, A), (1, 2, B), (2, 1, [40, 20, 40, 40])), [det(1, 1, A, 0.9), det(2, 1, [40, 20, 40, 25], 0.9)]
    )
    rows = recall_by(scene, matches, attributes(scene)["side"], (0, 12, 30, 100))
    assert [(b.objects, b.recall, b.recall75) for b in rows] == [(1, 1, 1), (1, 0, 0), (1, 1, 0)]
    assert recall_by(scene, matches, np.zeros(3), (5, 6))[0].recall is None


def test_ap_by_side_is_cocos_at_its_edges():
    ground_truth, detections = random_case(2)
    scene, pairs, _ = analysed(ground_truth, detections)
    ours = ap_by_side(scene, pairs, (0, 32, 96, 1e5))
    coco_gt = hotcoco.COCO({**ground_truth, "images": [{**im, "file_name": ""} for im in ground_truth["images"]]})
    evaluation = hotcoco.COCOeval(coco_gt, coco_gt.load_res(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    for value, area in zip(ours, (1, 2, 3), strict=True):
        precision = evaluation.eval["precision"][0, :, :, area, 2]
        assert value == pytest.approx(precision[precision > -1].mean(), abs=1e-12)


def test_groups_of_images():
    ground_truth, detections = random_case(2)
    for i, image in enumerate(ground_truth["images"]):
        image |= {"camera": i % 2, "file_name": f"day/{i}.jpg" if i % 3 else f"{i}.jpg"}
    scene, _, matches = analysed(ground_truth, detections)
    groups = image_groups(scene, "camera")
    assert {k: v.sum() for k, v in groups.items()} == {"0": 15, "1": 15}
    assert {k: v.sum() for k, v in image_groups(scene, "folder").items()} == {"day": 20, ".": 10}
    with pytest.raises(ValueError, match="no image has the key 'lens': there are folder, camera"):
        image_groups(scene, "lens")
    result = ap_by_group(scene, matches, groups)
    half = {im["id"] for im in ground_truth["images"] if im["camera"] == 1}
    part = {**ground_truth, "images": [im for im in ground_truth["images"] if im["id"] in half]}
    part["annotations"] = [a for a in ground_truth["annotations"] if a["image_id"] in half]
    metrics, _ = coco_metrics(part, [d for d in detections if d["image_id"] in half])
    assert {k: result["1"][k] for k in ("AP", "AP50", "AR100")} == pytest.approx(
        {k: metrics[k] for k in ("AP", "AP50", "AR100")}, abs=1e-12
    )
