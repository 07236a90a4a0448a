"""Text files are UTF-8 on every machine: each call that opens one names its encoding."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("backbone", "detection", "tools", "datasets", "docs/examples")
    for path in (ROOT / folder).rglob("*.py")
)
NOT_TEXT = {"os", "Image", "tarfile", "zipfile", "data", "av"}  # whose open() takes no encoding


def without_encoding(source):
    """Return the lines of calls that read or write text in the locale's encoding."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = (
            function.value.id if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) else ""
        )
        arguments = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
        words = [n.value for argument in arguments for n in ast.walk(argument) if isinstance(n, ast.Constant)]
        binary = any(word in ("rb", "wb", "ab", "xb") for word in words)
        is_path_method = name in ("read_text", "write_text") and isinstance(function, ast.Attribute)
        if is_path_method or (name == "open" and owner not in NOT_TEXT and not binary):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", FILES, ids=str)
def test_text_files_name_their_encoding(path):
    assert without_encoding((ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("line", ["open(p)", "p.open()", 'p.open("w")', "p.read_text()", 'open(p, mode="a")'])
def test_the_check_finds_a_missing_encoding(line):
    assert without_encoding(line) == [1]


@pytest.mark.parametrize("line", ['open(p, "rb")', 'p.open("r", encoding="utf-8")', 'p.open("wb")', "Image.open(p)"])
def test_the_check_leaves_others(line):
    assert without_encoding(line) == []
