from own_data import coco_set, keys

from detection.cli import run


def test_split_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    root = coco_set(tmp_path / "set", [["cat"], ["dog"]] * 5)
    output = tmp_path / "out"
    arguments = ["split", *keys(root)[:3], "--val", "0.2", "--output", str(output)]
    assert run("data", arguments) == 0
    out = capsys.readouterr().out
    assert "split into 8 train, 2 val images" in out
    assert f"use it with: data.format=coco data.root={output} data.train=train data.val=val" in out
    assert (output / "split.json").is_file()
    assert run("data", arguments) == 2
    assert "already exists" in capsys.readouterr().err
