import pytest
from own_data import coco_set, keys

from detection.cli import run


def test_repair_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    root = coco_set(tmp_path / "set", [["cat"], ["dog"]] * 2)
    arguments = ["repair", *keys(root, val="null"), "--rename", "cat=dog"]
    assert run("data", [*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "2 classes" in capsys.readouterr().out  # dog and emu
    with pytest.raises(SystemExit):
        run("data", ["repair", *keys(root), "--rename", "cat", "--output", str(tmp_path / "b")])
    assert "--rename expects OLD=NEW, got 'cat'" in capsys.readouterr().err
