import json
import re

import numpy as np
import pytest
from PIL import Image
from scenes import det, random_case, truth
from selenium.webdriver.common.keys import Keys

from detection.analysis.confusion import confusion_matrix
from detection.report.analysis import analyse
from detection.report.build import Options, build, write
from detection.report.sources import Inputs

HOSTILE = ["</script><script>window.hacked=1</script>", "\"'><img src=x onerror=window.hacked=1>", "‮tac"]


def inputs(ground_truth, detections, **more):
    return Inputs(title="t", ground_truth=ground_truth, detections=detections, **more)


@pytest.fixture(scope="module")
def case():
    ground_truth, detections = random_case(1, images=12, classes=3)
    for i, image in enumerate(ground_truth["images"]):
        image |= {"file_name": f"{HOSTILE[i % 3]}{i}.jpg", "camera": i % 2}
    for category, name in zip(ground_truth["categories"], HOSTILE, strict=True):
        category["name"] = name
    rng = np.random.default_rng(0)
    return ground_truth, [{**d, "score": round(float(rng.random()), 3)} for d in detections]


@pytest.fixture(scope="module")
def page(case, tmp_path_factory):
    ground_truth, detections = case
    other = inputs(ground_truth, detections[::2])
    file = tmp_path_factory.mktemp("page") / "report.html"
    grey = np.full((500, 500, 3), 90, np.uint8)
    options = Options(compare=(other,), fields=("camera", "folder"), diagnosis=DIAGNOSIS)
    numbers = write(
        inputs(ground_truth, detections, read=lambda name: grey, facts={"command": HOSTILE[0]}), file, None, options
    )
    return file, numbers


RECALL = {str(n): [0.9, 0.8, 0.7, 0.5, 0.2] for n in (10, 100)}
PART = {
    "objects": 10,
    "missed": 2,
    "stages": {"no anchor": 1, "wrong class": 1},
    "proposals": RECALL,
    "anchors": [1, 1, 0.8, 0.6, 0.3],
}
DIAGNOSIS = {
    **PART,
    "iou": 0.5,
    "score_threshold": 0.05,
    "ious": [0.5, 0.6, 0.7, 0.8, 0.9],
    "numbers": [10, 100],
    "by_size": {"small": PART, "medium": PART, "large": PART},
    "seconds": {"trunk": 0.1},
    "nms": [{"iou": 0.5, "AP": 0.3, "AP50": 0.5, "used": True}, {"iou": 0.7, "AP": None, "AP50": None, "used": False}],
    "lost": [],
}


def figures(driver):
    spans = driver.find_elements("css selector", "#figures span")
    return {s.get_attribute("data-name"): s.find_element("css selector", "b").text for s in spans}


def test_the_page_draws_without_errors_or_requests(page, browser):
    file, _ = page
    for width, dark in ((1280, False), (390, True)):
        driver = browser.open(file, width, 900, dark)
        assert browser.errors() == browser.requests() == []
        assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        assert driver.execute_script("return window.hacked") is None
    ids = {s.get_attribute("id") for s in driver.find_elements("css selector", "main section")}
    assert ids >= {
        "metrics",
        "compare",
        "threshold",
        "gallery",
        "classes",
        "curves",
        "confusion",
        "errors",
        "stages",
        "parts",
        "boxes",
        "calibration",
        "labels",
        "slice-0",
        "slice-1",
        "table",
    }


def test_hostile_names_are_text(page, browser):
    driver = browser.open(page[0])
    names = {cell.text for cell in driver.find_elements("css selector", "#classes tbody td:first-child")}
    assert names == set(HOSTILE)
    assert driver.execute_script("return document.querySelectorAll('main script, main img').length") == 0


def test_the_slider_moves_the_numbers(page, case, browser):
    """By keyboard; precision and recall beside those of Python at that threshold."""
    driver = browser.open(page[0])
    before = figures(driver)
    slider = driver.find_element("css selector", "#score")
    slider.send_keys(Keys.HOME)
    everything = figures(driver)
    analysis = analyse(*case)
    assert int(everything["TP"]) == analysis.curve.true[-1]
    assert int(everything["FP"]) == analysis.curve.false[-1]
    for _ in range(4):
        slider.send_keys(Keys.PAGE_UP)
    level = float(driver.find_element("css selector", "output[for=score]").text)
    assert level > 0.1
    shown = analysis.scene.score >= level
    now = figures(driver)
    assert int(now["TP"]) == (analysis.matches.true_positive[0] & shown).sum()
    assert int(now["FP"]) == (analysis.matches.false_positive[0] & shown).sum()
    assert before != now
    matrix = driver.execute_script("return page.matrix")
    assert matrix == confusion_matrix(analysis.scene, analysis.confusion, level).tolist()


def test_wanted_thresholds(page, case, browser):
    driver = browser.open(page[0])
    analysis = analyse(*case)
    buttons = {b.text: b for b in driver.find_elements("css selector", "#threshold button")}
    buttons["best F1"].click()
    assert float(figures(driver)["F1"]) == pytest.approx(analysis.curve.best_f1()[0], abs=6e-4)
    box = driver.find_element("css selector", "input[type=number]")
    box.clear()
    box.send_keys("0.5")
    buttons["set"].click()
    output = float(driver.find_element("css selector", "output[for=score]").text)
    wanted = analysis.curve.for_precision(0.5)
    assert wanted is None or output <= wanted + 1e-3


def test_a_cell_of_the_matrix_filters_the_images(page, browser):
    driver = browser.open(page[0])
    driver.execute_script(
        "document.querySelector('#score').value = 0; document.querySelector('#score').dispatchEvent(new Event('input'))"
    )
    whole = len(driver.find_elements("css selector", "#cards .card"))
    matrix = driver.execute_script("return page.matrix")
    row = next(r for r in range(3) if 0 < matrix[r][3] <= 3)
    cell = driver.find_element("css selector", f"[data-cell='{row},3']")
    driver.execute_script("arguments[0].focus()", cell)
    cell.send_keys(Keys.ENTER)
    few = len(driver.find_elements("css selector", "#cards .card"))
    assert 1 <= few <= matrix[row][3]
    assert few < whole
    driver.find_element("css selector", "#clear").click()
    assert len(driver.find_elements("css selector", "#cards .card")) == whole


def test_images_enlarged_by_keyboard(page, browser):
    driver = browser.open(page[0])
    driver.find_element("css selector", "#score").send_keys(Keys.HOME)
    card = driver.find_element("css selector", "#cards .card")
    driver.execute_script("arguments[0].focus()", card)
    card.send_keys(Keys.ENTER)
    dialog = driver.find_element("css selector", "dialog[open]")
    first = dialog.find_element("css selector", "bdi").text
    boxes = len(dialog.find_elements("css selector", "rect"))
    assert dialog.find_element("css selector", "image").get_attribute("href").startswith("data:image/jpeg")
    dialog.send_keys(Keys.ARROW_RIGHT)
    assert dialog.find_element("css selector", "bdi").text != first
    dialog.send_keys(Keys.ARROW_LEFT)
    dialog.send_keys("g")
    assert len(dialog.find_elements("css selector", "rect")) < boxes
    dialog.send_keys(Keys.ESCAPE)
    assert not driver.find_elements("css selector", "dialog[open]")
    assert browser.errors() == []


def test_the_comparison_is_there(page, browser):
    file, numbers = page
    other = numbers["compare"][0]
    assert other["won"] + other["lost"] + other["equal"] == 12
    assert other["metrics"]["AP50"]["difference"] > 0
    text = browser.open(file).find_element("css selector", "#compare").text
    assert f"Better on {other['won']} images" in text
    assert f"+{other['metrics']['AP50']['difference']:.4f}" in text


@pytest.mark.parametrize("detections", [[], [det(1, 1, [0, 0, 9, 9], 0.5)]])
@pytest.mark.parametrize("objects", [[], [(1, 1, [0, 0, 10, 10])]])
def test_nothing_to_show(objects, detections, tmp_path, browser):
    file = tmp_path / "r.html"
    numbers = write(inputs(truth(*objects), detections), file, tmp_path / "r.json")
    json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    driver = browser.open(file)
    assert browser.errors() == []
    if not objects:
        assert "no ground truth" in driver.find_element("css selector", "#metrics").get_attribute("textContent")
        assert numbers["thresholds"]["best_F1"] is None


def test_scores_that_are_no_fractions(tmp_path, browser):
    file = tmp_path / "r.html"
    write(
        inputs(truth((1, 1, [0, 0, 10, 10])), [det(1, 1, [0, 0, 10, 10], 7.5), det(1, 1, [50, 50, 9, 9], -3.0)]), file
    )
    driver = browser.open(file)
    assert figures(driver)["TP"] == "1"
    assert figures(driver)["FP"] == "0"  # at the best F1
    assert browser.errors() == []


def test_thumbnails_are_bounded(case, tmp_path):
    picture = np.asarray(Image.effect_noise((500, 400), 90).convert("RGB"))
    for number in (0, 3):
        file = tmp_path / f"{number}.html"
        write(inputs(*case, read=lambda name: picture), file, None, Options(thumbnails=number))
        assert len(re.findall("data:image/jpeg", file.read_text())) == number


def test_an_image_that_cannot_be_read_is_left_out(case, tmp_path, caplog):
    def read(name):
        raise OSError("gone")

    write(inputs(*case, read=read), tmp_path / "r.html")
    assert "12 of 12 images could not be read" in caplog.text


def test_numbers_agree_with_each_other(case):
    numbers, data = build(inputs(*case))
    metrics = {m["name"]: m for m in numbers["metrics"]}
    assert np.mean([c["AP"] for c in numbers["classes"]]) == pytest.approx(metrics["AP"]["value"], abs=1e-12)
    assert metrics["AP"]["low"] <= metrics["AP"]["value"] <= metrics["AP"]["high"]
    assert metrics["APs"]["low"] is not None
    assert sum(c["objects"] for c in numbers["classes"]) == numbers["counts"]["objects"]
    matrix = np.array(numbers["confusion"]["matrix"])
    assert matrix[:-1].sum() == numbers["counts"]["objects"]
    assert len(data["cards"]) == 12
