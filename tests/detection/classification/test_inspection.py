import json

import pytest

from detection.cli import run


def test_table_and_totals(capsys):
    assert run("inspect", ["resnet50"]) == 0
    out = capsys.readouterr().out
    assert "resnet50 on 224x224" in out
    assert "[1x1, 256 · 3x3, 256 · 1x1, 1024] x 6" in out
    assert "25,557,032" in out  # torchvision's count
    assert "4.089 G" in out


def test_json_and_options(capsys):
    assert (
        run("inspect", ["resnet18", "--json", "--size", "97", "130", "--shortcut", "A", "--output-stride", "16"]) == 0
    )
    table = json.loads(capsys.readouterr().out)
    assert table["size"] == [97, 130]
    rows = {row["name"]: row for row in table["stages"]}
    assert list(rows) == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", "fc"]
    assert rows["conv5_x"]["size"] == [7, 9]
    assert rows["conv5_x"]["stride"] == 16
    assert rows["conv2_x"]["parameters"] == 4 * 64 * 64 * 9 + 8 * 64


def test_cifar_networks_default_to_32_pixels(capsys):
    assert run("inspect", ["cifar_plain20"]) == 0
    assert "cifar_plain20 on 32x32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["resnet51"], "did you mean resnet50?"),
        (["resnet50", "--size", "1", "2", "3"], "a side, or height and width"),
        (["resnet50", "--size", "0"], "at least 1"),
        (["resnet50", "--size", "1", "--stem-pool", "ceil"], "use a larger one"),
        (["cifar_resnet20", "--output-stride", "8"], None),
    ],
)
def test_arguments_are_checked(argv, message, capsys):
    code = run("inspect", argv)
    assert (code == 0) if message is None else (code == 2 and message in capsys.readouterr().err)
