import pytest

from detection.cli import run


@pytest.fixture
def folder(tmp_path):
    for name, lr in (("a", 1), ("b", 2)):
        (tmp_path / "output" / name).mkdir(parents=True)
        (tmp_path / "output" / name / "config.yaml").write_text(f"solver: {{base_lr: {lr}}}\n")
    return tmp_path / "output"


def test_table_page_and_csv(folder, tmp_path, capsys):
    page, table = tmp_path / "new" / "runs.html", tmp_path / "runs.csv"
    assert run("runs", [str(folder), "--diff", "a", "b", "--html", str(page), "--csv", str(table)]) == 0
    assert "solver.base_lr" in capsys.readouterr().out
    assert table.read_text().count("\n") == 3
    assert page.read_text().startswith("<!doctype html>")
    assert run("runs", [str(folder), "--html", str(page)]) == 2  # nothing is replaced


def test_errors(folder, capsys):
    assert run("runs", [str(folder), "--diff", "c"]) == 2
    assert "no run 'c'" in capsys.readouterr().err
    assert run("runs", [str(folder / "none")]) == 2
