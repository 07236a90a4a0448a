import base64
import json
import re

import numpy as np
import pytest
from own_data import CLASSES, coco_set, keys

from detection.cli import run
from detection.config import load_config
from detection.dataset_check import view
from detection.dataset_check.view import view_page

HOSTILE = "</script><img src=x onerror='window.hacked=1'>"


@pytest.fixture(autouse=True)
def _separate_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def content(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def unpack(array, dtype):
    return np.frombuffer(base64.b64decode(array["base64"]), dtype)


@pytest.fixture
def root(tmp_path):
    """Two sets with a degenerate box, a box across the edge, a hostile class name and rare classes."""
    root = coco_set(tmp_path / "set", [["cat", "dog"], ["dog"], [], ["emu"]] * 4, split="train")
    coco_set(root, [["cat"], ["dog"]], split="val")
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}.json"
        data = json.loads(path.read_text())
        data["categories"][2]["name"] = HOSTILE
        if split == "train":
            data["annotations"][0]["bbox"] = [5, 5, 0, 10]
            data["annotations"][1]["bbox"] = [50, 5, 30, 10]
        path.write_text(json.dumps(data))
    return root


def config(root, val="val"):
    return load_config("faster_rcnn_r18_own_data.yaml", keys(root, "train", val))


def test_content(root):
    data = content(view_page(config(root), images=6))
    assert len(data["files"]) == 18
    assert data["sets"] == [["train", 16, 16], ["val", 2, 2]]
    assert unpack(data["offsets"], "<u4").tolist()[:5] == [0, 2, 3, 3, 4]
    assert unpack(data["boxes"], "<f4").reshape(-1, 4)[1].tolist() == [50, 5, 80, 15]
    assert unpack(data["flags"], "u1").tolist()[:3] == [1, 8, 0]
    assert unpack(data["part"], "u1").tolist() == [0] * 16 + [1] * 2
    findings = {finding["kind"]: finding for finding in data["findings"]}
    assert findings["degenerate box"]["items"][0][0] == 0
    assert findings["degenerate box"]["severity"] == "drops"
    few = findings["class with few objects"]
    assert few["count"] == 3
    assert [image for image, *_, found in few["items"] if found == f"{HOSTILE}: 4" and image >= 0] == [3, 7, 11, 15]
    assert len(data["thumbnails"]) == 6
    assert "0" in data["thumbnails"]  # has findings


def test_parts_of_a_split(root):
    data = content(view_page(config(root, "0.25"), images=0))
    assert [name for name, *_ in data["sets"]] == ["train", "val"]
    assert data["thumbnails"] == {}


def test_large_sets_show_images_with_findings_and_a_sample(root, monkeypatch):
    monkeypatch.setattr(view, "MAX_IMAGES", 5)
    data = content(view_page(config(root), images=2))
    assert data["total"] == 18
    assert len(data["files"]) == 5
    assert data["files"][0] == "train/000.jpg"
    assert len(unpack(data["offsets"], "<u4")) == 6


def test_the_page_in_a_browser(root, tmp_path, browser):
    page = tmp_path / "view.html"
    assert run("data", ["view", *keys(root, "train", "val"), "--output", str(page), "--images", "4"]) == 0
    driver = browser.open(page)
    count = lambda selector: len(driver.find_elements("css selector", selector))  # noqa: E731
    tally = lambda: driver.find_element("id", "tally").text  # noqa: E731
    assert tally() == "18 of 18 images"
    assert count(".card") == 18
    assert count(".card img") == 4
    assert count(".card rect.front") == 18
    assert driver.execute_script("return window.hacked") is None
    assert HOSTILE in [e.text for e in driver.find_elements("css selector", ".classes bdi")]

    press = lambda selector, text: next(  # noqa: E731
        e for e in driver.find_elements("css selector", selector) if text in e.text
    ).click()
    press(".finding > button", "degenerate box")
    assert tally() == "1 of 18 images"
    assert "cat 5, 5, 5, 15" in driver.find_element("css selector", ".caption .fault").text
    driver.find_element("css selector", ".card").click()
    assert driver.execute_script("return document.querySelector('dialog').open")
    assert "no width or height" in driver.find_element("css selector", ".objects").text
    driver.find_element("css selector", "dialog button[title*=close]").click()
    driver.find_element("id", "clear").click()

    press(".classes button", "dog")
    assert tally() == "9 of 18 images"
    assert count("g.other") == 4  # the cats beside the dogs
    driver.find_element("id", "clear").click()
    select = driver.find_element("css selector", "select[aria-label='set']")
    select.find_element("css selector", "option[value='1']").click()
    assert tally() == "2 of 18 images"
    driver.find_element("id", "clear").click()
    driver.find_element("css selector", "select[aria-label='class'] option[value='none']").click()
    assert tally() == "4 of 18 images"
    driver.find_element("id", "clear").click()

    body = driver.find_element("css selector", "body")
    before = driver.execute_script("return document.documentElement.dataset.theme")
    body.send_keys("t")
    assert driver.execute_script("return document.documentElement.dataset.theme") != before
    body.send_keys("n")
    assert count(".finding > button[aria-pressed='true']") == 1
    assert browser.errors() == []
    assert browser.requests() == []


def test_a_narrow_window_has_no_sideways_scroll(root, tmp_path, browser):
    page = tmp_path / "view.html"
    page.write_text(view_page(config(root), images=2), encoding="utf-8")
    driver = browser.open(page, width=390)
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert len(CLASSES) == 3
