"""tools/suite.py: which runs a list has, what is kept, and its table by hand."""

import csv
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from runs import SMALL, TOOLS

sys.path.insert(0, str(TOOLS))  # as when the command is started by its path

from benchmarks import suite
from benchmarks.suite import Job, jobs, read_suite, rows, run_job, write_table

from suite import main  # isort: skip

LIST = """
seeds: [0, 1]
baseline: a
keys: [solver.max_iter=2]
configurations:
  a: {config: quickstart.yaml}
  b: {config: quickstart.yaml, keys: [solver.base_lr=0.1], sets: [one], seeds: [1, 2]}
sets:
  one: {keys: [data.root=one]}
  two: {keys: [data.root=/two]}
  last: {keys: [data.root=last], held_back: true}
"""


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "list.yaml").write_text(LIST)
    return read_suite(tmp_path / "list.yaml")


def test_the_runs_of_a_list(listed):
    own = jobs(listed, Path("/root"), Path("out"), held_back=False)
    assert [(j.set, j.configuration, j.seed) for j in own] == [
        ("one", "a", 0), ("two", "a", 0), ("one", "a", 1), ("two", "a", 1), ("one", "b", 1), ("one", "b", 2)
    ]  # fmt: skip
    assert own[-1].keys == ("solver.max_iter=2", "data.root=/root/one", "solver.base_lr=0.1")
    assert own[1].keys[1] == "data.root=/two"
    assert Path(own[-1].folder) == Path("out/one/b/seed-2")
    back = jobs(listed, Path("/root"), Path("out"), held_back=True)
    assert {(j.set, j.seed) for j in back} == {("last", 0), ("last", 1)}
    assert {j.configuration for j in jobs(listed, Path(), Path(), held_back=False, only=["b"])} == {"b"}
    assert {j.set for j in jobs(listed, Path(), Path(), held_back=False, only=["two"])} == {"two"}
    with pytest.raises(ValueError, match=r"not in the list: c; it has a, b, last, one, two"):
        jobs(listed, Path(), Path(), held_back=False, only=["c"])


def test_a_faulty_list_is_named(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(LIST.replace("seeds: [0, 1]", "seeds: many"))
    with pytest.raises(ValueError, match=r"list\.yaml: seeds: .*got 'many'"):
        read_suite(path)


def result(name, label, seed, ap, **more):
    job = Job(name, label, seed, "quickstart.yaml", ())
    return {"job": asdict(job), "AP": ap, "AP50": ap, "minutes": 1.0, "diverged": ap is None, "recoveries": 0,
            "warnings": 0, "error": "", **more}  # fmt: skip


def test_medians_ranges_and_ratios_by_hand(tmp_path):
    results = [result("one", "a", s, ap) for s, ap in enumerate((0.1, 0.3, 0.2))]
    results += [result("one", "b", s, ap, minutes=m) for s, (ap, m) in enumerate(((0.4, 1.0), (None, 3.0), (0.6, 2.0)))]
    a, b = rows(results, "a")
    assert (a["AP"], a["AP low"], a["AP high"], a["ratio"]) == (0.2, 0.1, 0.3, 1.0)
    # a run that diverged counts as 0 in the median, and is no part of the range
    assert (b["AP"], b["AP low"], b["AP high"], b["minutes"], b["diverged"]) == (0.4, 0.4, 0.6, 2.0, 1)
    assert b["ratio"] == pytest.approx(2.0)
    text = write_table(results, tmp_path, "a")
    assert "| one | b | 3 | 0.400 (0.400 to 0.600) |" in text
    assert "b: median ratio 2.00 over 1 sets" in text
    assert (tmp_path / "suite.md").read_text() == text
    assert len(list(csv.DictReader((tmp_path / "suite.csv").open()))) == 2
    assert (tmp_path / "suite.png").read_bytes().startswith(b"\x89PNG")


def tiny(tmp_path, **changes):
    folder = tmp_path / "one" / "a" / "seed-0"
    job = Job("one", "a", 0, "quickstart.yaml", (*SMALL, "solver.max_iter=2", "data.val=1"), folder=str(folder))
    return replace(job, **changes)


def test_a_run_and_what_counts_as_finished(tmp_path):
    job = tiny(tmp_path)
    assert job.result() is None
    made = run_job(job)
    assert made == job.result()
    assert (made["error"], made["diverged"]) == ("", False)
    assert 0 <= made["AP"] <= made["AP50"] <= 1
    assert replace(job, keys=(*job.keys, "solver.base_lr=0.1")).result() is None  # another run's


def test_a_run_that_diverges_is_a_result(tmp_path):
    made = run_job(tiny(tmp_path, keys=(*SMALL, "solver.base_lr=1e30", "solver.clip_norm=null", "data.val=1")))
    assert made["diverged"]
    assert "step " in made["error"]


def test_the_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    keys = json.dumps([*SMALL, "solver.max_iter=1", "data.val=1"])
    (tmp_path / "list.yaml").write_text(
        f"seeds: [0]\nkeys: {keys}\nconfigurations: {{a: {{config: quickstart.yaml}}}}\nsets: {{one: {{keys: []}}}}\n"
    )
    command = [str(tmp_path / "list.yaml"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert "| one | a | 1 |" in capsys.readouterr().out
    monkeypatch.setattr(suite.subprocess, "Popen", None)  # nothing is left to start
    assert main(command) == 0


def test_the_shipped_list_is_read():
    listed = read_suite(TOOLS / "benchmarks" / "suite.yaml")
    held = [name for name, entry in listed.sets.items() if entry.held_back]
    assert len(held) * 3 == len(listed.sets)
    assert all(entry.about for entry in listed.sets.values())
    assert jobs(listed, Path(), Path(), held_back=True)
