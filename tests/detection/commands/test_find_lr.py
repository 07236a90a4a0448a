import pytest
from runs import SMALL

from detection.cli import run

pytestmark = pytest.mark.usefixtures("thin_networks")


def test_a_range_test_says_what_it_found(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [
        "--config",
        "quickstart.yaml",
        "--output",
        str(out),
        "--lowest",
        "1e-5",
        "--highest",
        "1",
        "--steps",
        "3",
    ]
    assert run("find-lr", [*arguments, *SMALL]) == 1  # too few steps
    assert "no suggestion" in capsys.readouterr().out
    assert (out / "lr_finder.png").exists()
    assert run("find-lr", [*arguments, *SMALL]) == 2  # nothing is replaced
    assert "lr_finder.json" in capsys.readouterr().err
