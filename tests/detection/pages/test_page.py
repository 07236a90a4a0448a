import base64
import json
import re

import numpy as np
import pytest

from detection.pages.page import packed, render, to_json

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "\"'><img src=x onerror='window.hacked = 1'>",
    "‮gnp.cat",
    "<!--",
    "\ud800",
]
SCRIPT = "page.layout(page.data.title, null, [{id: 'a', title: 'A', nodes: page.data.names.map((n) => page.el('p', null, page.name(n)))}]);"


def test_json_is_safe_in_a_script_element():
    text = to_json({"a": HOSTILE, "b": [float("nan"), float("inf"), 1.5], "c": np.float32(2), "d": np.arange(2)})
    assert not set("<>&") & set(text)
    assert text.isascii()
    back = json.loads(text)
    assert back["a"] == HOSTILE
    assert back["b"] == [None, None, 1.5]
    assert back["c"] == 2
    assert back["d"] == [0, 1]


@pytest.mark.parametrize(("kind", "dtype"), [("u1", "<u1"), ("u2", "<u2"), ("u4", "<u4"), ("f4", "<f4")])
def test_packed_arrays_are_little_endian(kind, dtype):
    values = np.array([[0, 1], [2, 250]])
    array = packed(values, kind)
    assert np.frombuffer(base64.b64decode(array["base64"]), dtype).tolist() == [0, 1, 2, 250]


def test_packed_refuses_what_does_not_fit():
    for values in ([-1], [256]):
        with pytest.raises(ValueError, match="do not fit u1"):
            packed(np.array(values), "u1")
    assert packed(np.zeros(0), "u1")["base64"] == ""
    with pytest.raises(ValueError, match="got 'i8'"):
        packed(np.zeros(1), "i8")


def test_policy_names_each_script_and_nothing_else():
    page = render("<title> & more", {}, scripts=["let a = 1;"])
    assert "<title>&lt;title&gt; &amp; more</title>" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert policy.startswith("default-src &#x27;none&#x27;; script-src &#x27;sha256-")
    assert policy.count("sha256-") == 2
    assert "unsafe-eval" not in policy
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_hostile_names_are_text(browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(render("t", {"title": HOSTILE[0], "names": HOSTILE[:4]}, scripts=[SCRIPT]), encoding="utf-8")
    driver = browser.open(file)
    assert [p.text for p in driver.find_elements("css selector", "section p")] == HOSTILE[:4]
    assert driver.execute_script("return window.hacked") is None
    assert driver.find_element("css selector", "h1").text == HOSTILE[0]
    assert browser.errors() == browser.requests() == []


def test_policy_stops_scripts_and_requests(browser, tmp_path):
    """The test can fail: what was not there when the page was made neither runs nor is fetched."""
    page = render("t", {"title": "t", "names": []}, scripts=[SCRIPT])
    file = tmp_path / "page.html"
    file.write_text(
        page.replace("</body>", "<script>window.hacked = 1</script><img src='http://example.com/a.png'></body>")
    )
    driver = browser.open(file)
    assert driver.execute_script("return window.hacked") is None
    assert len(browser.errors()) >= 2


def test_keyboard_and_themes(browser, tmp_path):
    script = "page.layout('t', null, [1, 2, 3].map((i) => ({id: `s${i}`, title: `S${i}`, nodes: [page.el('div', {style: {height: '700px'}})]})));"
    file = tmp_path / "page.html"
    file.write_text(render("t", {}, scripts=[script]))
    driver = browser.open(file, dark=True)
    root = driver.find_element("css selector", "html")
    assert root.get_attribute("data-theme") == "dark"
    body = driver.find_element("css selector", "body")
    body.send_keys("t")
    assert root.get_attribute("data-theme") == "light"
    body.send_keys("j")
    body.send_keys("j")
    assert driver.execute_script("return document.activeElement.id") == "s2"
    body.send_keys("k")
    assert driver.execute_script("return document.activeElement.id") == "s1"
    driver.find_element("css selector", "#theme").click()
    assert root.get_attribute("data-theme") == "dark"
    assert browser.errors() == []


def test_tables_sort_filter_and_save(browser, tmp_path):
    script = """
    const rows = page.data.rows;
    const t = page.table([{key: 'name', label: 'name', text: true}, {key: 'ap', label: 'AP', show: (v) => page.fixed(v)}], rows, {filter: 'find', csv: 't.csv'});
    page.layout('t', null, [{id: 'a', title: 'A', nodes: [t.node]}]);
    window.text = page.csvText([{key: 'name', label: 'name'}, {key: 'ap', label: 'AP'}], rows);
    """
    rows = [{"name": 'b,"x"', "ap": 0.5}, {"name": "=HYPERLINK(1)", "ap": None}, {"name": "a", "ap": 0.75}]
    file = tmp_path / "page.html"
    file.write_text(render("t", {"rows": rows}, scripts=[script]))
    driver = browser.open(file)

    def names():
        return [cell.text for cell in driver.find_elements("css selector", "tbody td:first-child")]

    heads = driver.find_elements("css selector", "th button")
    heads[1].click()  # numbers begin with the largest; what is undefined comes last, either way
    assert names() == ["a", 'b,"x"', "=HYPERLINK(1)"]
    heads[1].click()
    assert names() == ['b,"x"', "a", "=HYPERLINK(1)"]
    heads[0].click()
    assert names()[0] == "=HYPERLINK(1)" or names()[0] == "a"
    driver.find_element("css selector", "input[type=search]").send_keys("hyper")
    assert names() == ["=HYPERLINK(1)"]
    assert driver.execute_script("return window.text") == 'name,AP\n"b,""x""",0.5\n\'=HYPERLINK(1),\na,0.75\n'
    assert browser.errors() == []


def test_charts_draw_and_tell(browser, tmp_path):
    script = """
    const one = page.lines([{name: 'p', x: [0, 1, 2], y: [1, null, 0.5]}, {name: 'q', x: [0, 2], y: [0, 1]}], {title: 'curve', y: [0, 1]});
    const two = page.bars(['a', 'b'], [{name: 'n', y: [3, 0], low: [2, null], high: [4, null]}], {title: 'bars'});
    page.layout('t', null, [{id: 'a', title: 'A', nodes: [one, two]}]);
    """
    file = tmp_path / "page.html"
    file.write_text(render("t", {}, scripts=[script]))
    driver = browser.open(file)
    paths = [p.get_attribute("d") for p in driver.find_elements("css selector", "path.line")]
    assert paths[0].count("M") == 2  # null breaks the line
    assert paths[1].count("L") == 1
    assert len(driver.find_elements("css selector", "rect")) == 2
    driver.execute_script(
        "const b = document.querySelector('rect').getBoundingClientRect();"
        "document.querySelector('rect').dispatchEvent(new PointerEvent('pointermove', {clientX: b.x + 1, clientY: b.y + 1, bubbles: true}))"
    )
    assert driver.find_element("css selector", ".tip").text == "a\nn: 3"
    assert browser.errors() == []
