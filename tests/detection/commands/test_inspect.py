import json

import pytest

from backbone.resnet import NAMES
from detection.cli import run


def stages(capsys, *argv):
    assert run("inspect", [*argv, "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["stages"]}


def test_the_classifier_has_as_many_outputs_as_asked(capsys):
    assert stages(capsys, "resnet18")["fc"]["parameters"] == 512 * 1000 + 1000
    assert stages(capsys, "resnet18", "--classes", "7")["fc"]["parameters"] == 512 * 7 + 7
    assert stages(capsys, "cifar_resnet20")["fc"]["parameters"] == 64 * 10 + 10


def test_one_side_is_a_square(capsys):
    square = stages(capsys, "resnet18", "--size", "64")
    assert square == stages(capsys, "resnet18", "--size", "64", "64")
    assert square["conv5_x"]["size"] == [2, 2]
    wide = stages(capsys, "resnet18", "--size", "64", "128")
    assert wide["conv5_x"]["size"] == [2, 4]
    assert wide["conv3_x"]["macs"] == 2 * square["conv3_x"]["macs"]


def test_a_stem_without_pooling_halves_the_stride(capsys):
    with_pool, without = (stages(capsys, "resnet18", "--stem-pool", pool) for pool in ("pad1", "none"))
    assert [row["stride"] for row in with_pool.values()][:5] == [2, 4, 8, 16, 32]
    assert [row["stride"] for row in without.values()][:5] == [2, 2, 4, 8, 16]


def test_where_a_bottleneck_strides_changes_its_cost_alone(capsys):
    late, early = (stages(capsys, "resnet50", "--stride-in", where) for where in ("3x3", "1x1"))
    assert early["conv3_x"]["macs"] < late["conv3_x"]["macs"]
    assert early["conv3_x"]["parameters"] == late["conv3_x"]["parameters"]
    assert early["conv2_x"]["macs"] == late["conv2_x"]["macs"]  # which does not stride


@pytest.mark.parametrize(("argv", "words"), [(["resnet19"], "resnet18"), (["resnet18", "--size", "-3"], "at least 1")])
def test_errors_of_the_user(argv, words, capsys):
    assert run("inspect", argv) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["resnet18", "--shortcut", "D"], ["resnet18", "--output-stride", "4"]])
def test_usage_errors(argv):
    with pytest.raises(SystemExit) as ended:
        run("inspect", argv)
    assert ended.value.code == 2


def test_help_lists_every_network(capsys):
    with pytest.raises(SystemExit):
        run("inspect", ["--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)


def test_a_plot_that_exists_is_not_replaced(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, options in (("responses.png", []), ("mine.png", ["--output", "mine.png"])):
        (tmp_path / name).write_text("mine")
        assert run("inspect", ["--responses", "none.pth", *options]) == 2
        assert f"{name} already exists and is not replaced: give another --output" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "mine"
