import pytest

from detection.cli import run
from detection.commands.data import COMMANDS


def test_the_commands_are_listed(capsys):
    assert run("data", ["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert run("data", ["nonsense"]) == 2
    assert "usage: resdet data COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_each_has_help(capsys, name):
    with pytest.raises(SystemExit) as ended:
        run("data", [name, "--help"])
    assert ended.value.code == 0
    assert f"resdet data {name}" in capsys.readouterr().out
