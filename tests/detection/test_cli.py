import importlib
import io
import logging
import os
import pickle
import runpy
import subprocess
import sys

import pytest

from detection.cli import COMMANDS, any_encoding, import_plugins, main, run, run_main


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """The module path and the loggers' levels are afterwards as before."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    loggers = [logging.getLogger(name) for name in ("detection", "backbone")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def raises(error):
    def command(argv):
        raise error

    return command


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_module_and_help(name, capsys):
    module = importlib.import_module(f"detection.commands.{name.replace('-', '_')}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_unknown_option_is_a_usage_error(name, capsys):
    with pytest.raises(SystemExit) as ended:
        run(name, ["--no-such-option"])
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "code"), [([], 2), (["nothing"], 2), (["--help"], 0), (["-h"], 0)])
def test_the_list_of_commands(argv, code, capsys):
    assert main(argv) == code
    out, error = capsys.readouterr()
    assert all(name in (error if code else out) for name in COMMANDS)
    assert (out if code else error) == ""


def test_a_command_is_run_with_its_arguments(capsys):
    assert main(["inspect", "resnet18", "--size", "64"]) == 0
    assert "resnet18 on 64x64" in capsys.readouterr().out


def test_python_m_is_the_same_as_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["resdet", "inspect", "resnet18", "--size", "64"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("detection", run_name="__main__")
    assert ended.value.code == 0
    assert "resnet18 on 64x64" in capsys.readouterr().out


def test_exit_codes_pass_through():
    assert run_main(lambda argv: len(argv), ["a", "b", "c"]) == 3
    with pytest.raises(SystemExit) as ended:
        run_main(raises(SystemExit(143)))
    assert ended.value.code == 143


@pytest.mark.parametrize("error", [ValueError("mine"), TypeError("mine"), OSError("mine"), FileNotFoundError("mine")])
def test_an_error_that_the_user_can_mend_is_one_message(error, capsys, monkeypatch):
    monkeypatch.delenv("RESDET_TRACEBACK", raising=False)
    assert run_main(raises(error)) == 2
    out, said = capsys.readouterr()
    assert (out, said) == ("", "error: mine\n")


def test_its_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("RESDET_TRACEBACK", "1")
    with pytest.raises(ValueError, match="mine"):
        run_main(raises(ValueError("mine")))


def test_other_errors_have_their_traceback(monkeypatch):
    monkeypatch.delenv("RESDET_TRACEBACK", raising=False)
    with pytest.raises(ZeroDivisionError):
        run_main(lambda argv: 1 // 0)


def test_ctrl_c_ends_with_130(capsys):
    assert run_main(raises(KeyboardInterrupt())) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "shown"), [("0", ["info", "error"]), ("1", ["error"])])
def test_messages_go_to_the_error_stream_once(monkeypatch, capsys, rank, shown):
    def command(argv):
        logger = logging.getLogger("detection.some")
        logger.debug("debug")
        logger.info("info")
        logger.error("error")
        return 0

    monkeypatch.setenv("RANK", rank)
    before = list(logging.getLogger("detection").handlers)
    for _ in range(2):  # handlers do not pile up
        run_main(command)
        assert capsys.readouterr().err.split() == shown
    assert logging.getLogger("detection").handlers == before


def test_plugins_are_imported_and_taken_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("file_plugin.py", "module_plugin.py"):
        (tmp_path / name).write_text(f"open('{name}.ran', 'w').close()")
    rest = import_plugins(["a", "--import", "file_plugin.py", "b", "--import", "module_plugin", "c"])
    for name in ("file_plugin", "module_plugin"):
        monkeypatch.delitem(sys.modules, name)
    assert rest == ["a", "b", "c"]
    assert sorted(path.name for path in tmp_path.glob("*.ran")) == ["file_plugin.py.ran", "module_plugin.py.ran"]


def test_a_plugin_of_a_file_travels_to_spawned_processes(tmp_path, monkeypatch):
    """DataLoader workers on Windows and macOS import what is pickled by its module's name."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_reader.py").write_text("def read(file):\n    return file\n")
    import_plugins(["--import", str(tmp_path / "own_reader.py")])
    module = sys.modules["own_reader"]
    sent = pickle.dumps(module.read)
    monkeypatch.delitem(sys.modules, "own_reader")  # as in another process, which gets sys.path
    assert pickle.loads(sent)("a.jpg") == "a.jpg"


def test_a_plugin_is_run_again_and_hides_no_module(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    for name in ("again.py", "json.py", "a.b.py"):
        (tmp_path / name).write_text(f"open('{name}.ran', 'a').write('x')")
        import_plugins(["--import", name, "--import", name])
        assert (tmp_path / f"{name}.ran").read_text() == "xx"
    assert hasattr(sys.modules["json"], "dumps")
    monkeypatch.delitem(sys.modules, "again")


def test_without_plugins_arguments_stay(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["resdet", "x", "y"])
    assert import_plugins(None) == ["x", "y"]
    given = ["x"]
    assert import_plugins(given) == given
    assert import_plugins([]) == []


@pytest.mark.parametrize("argv", [["--import"], ["--import", "no_such_module_here"], ["--import", "none.py"]])
def test_a_plugin_that_is_missing_is_an_error(argv, capsys):
    assert run("inspect", ["resnet18", *argv]) == 2
    assert "--import" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("encoding", "wanted"),
    [
        ("utf-8", "┏━┳┓ │ née 猫 …"),
        ("cp1252", "+-++ | née \\u732b …"),
        ("ascii", "+-++ | n\\xe9e \\u732b ..."),
    ],
)
def test_standard_output_of_any_encoding(encoding, wanted, monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    with any_encoding():
        print("┏━┳┓ │ née 猫 …", end="")
    assert stream.errors == "strict"  # as before
    stream.flush()
    assert raw.getvalue().decode(encoding) == wanted


def test_help_under_a_locale_without_encodings():
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    done = subprocess.run([sys.executable, "-m", "detection", "--help"], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert b"resdet COMMAND ..." in done.stdout


def test_a_table_on_standard_output_in_ascii(monkeypatch):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    assert run("inspect", ["cifar_resnet20"]) == 0
    stream.flush()
    assert "| conv1" in raw.getvalue().decode("ascii")


def test_loggers_have_their_levels_back():
    logging.getLogger("detection").setLevel(logging.ERROR)
    assert run_main(lambda argv: logging.getLogger("detection").level) == logging.DEBUG
    assert logging.getLogger("detection").level == logging.ERROR
