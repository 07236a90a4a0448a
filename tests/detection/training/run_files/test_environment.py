import json
import sys
from importlib import metadata

import numpy as np
import pytest
import torch

from detection.training.run_files.environment import provenance, write_provenance


def test_starts_of_a_run_are_appended(tmp_path):
    path = tmp_path / "run.json"
    write_provenance(path, seed=3, step=0)
    write_provenance(path, seed=3, step=250)
    first, second = json.loads(path.read_text())
    assert (first["seed"], first["step"], second["step"]) == (3, 0, 250)
    assert first["versions"] == second["versions"]
    assert first["started"] <= second["started"]


@pytest.mark.parametrize("content", ["", "{", "[1, 2"])
def test_a_damaged_list_begins_anew(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_text(content)
    write_provenance(path, seed=1, step=0)
    assert [start["seed"] for start in json.loads(path.read_text())] == [1]


def test_versions_are_those_that_run(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["train.py", "a b"])
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.chdir(tmp_path)
    about = provenance()
    assert about["versions"]["torch"] == torch.__version__
    assert about["versions"]["numpy"] == np.__version__
    assert about["versions"]["python"] == sys.version.split()[0]
    assert about["command"].endswith("train.py 'a b'")
    assert about["processes"] == 4
    assert about["folder"] == str(tmp_path)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    versions = provenance()["versions"]
    assert versions["lightning"] is None
    assert versions["torch"] == torch.__version__


def test_a_machine_without_git_says_nothing_of_the_code(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance()["git"] is None
