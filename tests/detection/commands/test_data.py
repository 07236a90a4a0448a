import pytest

from detection.cli import run
from detection.commands.data import COMMANDS


@pytest.mark.parametrize(("argv", "code"), [(["--help"], 0), (["nonsense"], 2), ([], 2)])
def test_the_commands_are_listed(capsys, argv, code):
    with pytest.raises(SystemExit) as ended:
        run("data", argv)
    assert ended.value.code == code
    out, err = capsys.readouterr()
    assert "usage: resdet data COMMAND" in out + err
    if not code:
        assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_has_help(capsys, name):
    with pytest.raises(SystemExit) as ended:
        run("data", [name, "--help"])
    assert ended.value.code == 0
    assert f"resdet data {name}" in capsys.readouterr().out
