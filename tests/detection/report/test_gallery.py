import base64
import io

import numpy as np
from PIL import Image
from scenes import det, random_case, truth

from detection.analysis.bootstrap import influence
from detection.report import gallery
from detection.report.analysis import analyse

A = [0, 0, 10, 10]


def test_the_worst_images_come_first():
    ground_truth, detections = random_case(0)
    analysis = analyse(ground_truth, detections)
    lost = influence(analysis.scene, analysis.matches)
    chosen = gallery.choose(analysis, lost)
    assert sorted(chosen.tolist()) == list(range(30))
    assert chosen[0] == np.argmax(lost)
    assert len(gallery.choose(analysis, lost, 5)) == 5


def test_cards():
    analysis = analyse(
        truth((1, 1, A), (1, 2, [20, 20, 9, 9])), [det(1, 1, A, 0.9), det(1, 1, [50, 50, 5, 5.26], 0.01)]
    )
    first, second = gallery.cards(analysis, np.array([0, 1]))
    assert first["size"] == [100, 100]
    assert first["objects"] == [[0, 0, 10, 10, 0, 0, 9001], [20, 20, 9, 9, 1, 0, 0]]
    assert first["detections"] == [[0, 0, 10, 10, 0, 9000, 1, 6, 0], [50, 50, 5, 5.3, 0, 100, 0, 4, 2]]
    assert second["objects"] == second["detections"] == []


def test_unknown_sizes_hold_the_boxes():
    case = {**truth((1, 1, [30, 20, 10, 10])), "images": [{"id": 1}, {"id": 2}]}
    assert gallery.cards(analyse(case, [det(1, 1, [0, 0, 77, 9], 0.9)]), np.array([0]))[0]["size"] == [77, 30]


def test_thumbnails():
    pictures = {"a": np.full((900, 600, 3), 200, np.uint8), "b": np.full((10, 20, 3), 200, np.uint8)}
    result = gallery.thumbnails(["a", "b", "none"], pictures.__getitem__, shown=False)
    sizes = [Image.open(io.BytesIO(base64.b64decode(v.partition(",")[2]))).size for v in result.values()]
    assert sizes == [(267, 400), (20, 10)]
