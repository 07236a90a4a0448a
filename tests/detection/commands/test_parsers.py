from pathlib import Path

import pytest
from ruamel.yaml import YAML

from detection.commands.parsers import quoted, run_parser
from detection.config import Config, override


@pytest.mark.parametrize(
    "text", ["plain", "", "a b", 'with "quotes"', "back\\slash", "C:\\new", "a: b", "# no comment", "null", "1e3", "ü€"]
)
def test_a_quoted_string_is_read_back_by_yaml(text):
    assert YAML(typ="safe", pure=True).load(quoted(text)) == text
    assert override({}, [f"model.weights={quoted(text)}"]) == {"model": {"weights": text}}


def test_arguments_of_a_run():
    parser = run_parser("About.", [], Config)
    args = parser.parse_intermixed_args(["a.b=1", "--config", "mine", "--resume", "c=2", "--output", "out"])
    assert (args.config, args.output, args.keys) == ("mine", Path("out"), ["a.b=1", "c=2"])
    assert (args.resume, args.eval_only, args.print_config) == (True, False, False)


def test_no_keys_are_an_empty_list():
    args = run_parser("About.", [], Config).parse_intermixed_args(["--config", "mine"])
    assert (args.keys, args.output) == ([], None)


@pytest.mark.parametrize("argv", [[], ["--config"], ["--conf", "mine"]])
def test_the_configuration_must_be_given_in_full(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        run_parser("About.", argv, Config).parse_intermixed_args(argv)
    assert ended.value.code == 2
    assert "--config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "listed"), [(["--help"], True), (["-h"], True), (["--config", "x"], False), ([], False)]
)
def test_keys_are_listed_for_those_who_ask(argv, listed):
    text = run_parser("About.", argv, Config, "shelf/").format_help()
    assert "About." in text
    assert "configs/shelf/" in text
    assert ("solver.base_lr" in text) is listed


def test_the_process_own_arguments_count_where_none_are_given(monkeypatch):
    monkeypatch.setattr("sys.argv", ["resdet", "train", "--help"])
    assert "solver.base_lr" in run_parser("About.", None, Config).format_help()
