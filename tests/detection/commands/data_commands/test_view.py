import pytest
from own_data import coco_set, keys

from detection.cli import run


def test_a_page_is_written_and_none_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    root = coco_set(tmp_path / "set", [["cat"], ["dog"]] * 5)
    arguments = ["view", *keys(root), "--output", str(tmp_path / "pages" / "view.html"), "--images", "2"]
    assert run("data", arguments) == 0
    assert "open it in a browser" in capsys.readouterr().out
    page = (tmp_path / "pages" / "view.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    assert run("data", arguments) == 2
    assert "already exists" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("data", ["view", *keys(root), "--output", str(tmp_path / "b.html"), "--images", "-1"])
