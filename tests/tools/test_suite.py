"""tools/suite.py: the runs of a list, finished runs, and the table."""

import csv
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from runs import SMALL, TOOLS

sys.path.insert(0, str(TOOLS))  # as when the script is run by its path

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


def test_jobs_of_a_list(listed):
    suite_jobs = jobs(listed, Path("/root"), Path("out"), held_back=False)
    assert [(j.set, j.configuration, j.seed) for j in suite_jobs] == [
        ("one", "a", 0), ("two", "a", 0), ("one", "a", 1), ("two", "a", 1), ("one", "b", 1), ("one", "b", 2)
    ]  # fmt: skip
    assert suite_jobs[-1].keys == ("solver.max_iter=2", "data.root=/root/one", "solver.base_lr=0.1")
    assert suite_jobs[1].keys[1] == "data.root=/two"
    assert Path(suite_jobs[-1].folder) == Path("out/one/b/seed-2")
    held_out = jobs(listed, Path("/root"), Path("out"), held_back=True)
    assert {(j.set, j.seed) for j in held_out} == {("last", 0), ("last", 1)}
    assert {j.configuration for j in jobs(listed, Path(), Path(), held_back=False, only=["b"])} == {"b"}
    assert {j.set for j in jobs(listed, Path(), Path(), held_back=False, only=["two"])} == {"two"}
    with pytest.raises(ValueError, match=r"not in the list: c; it has a, b, last, one, two"):
        jobs(listed, Path(), Path(), held_back=False, only=["c"])


def test_invalid_list_is_reported(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(LIST.replace("seeds: [0, 1]", "seeds: many"))
    with pytest.raises(ValueError, match=r"list\.yaml: seeds: .*got 'many'"):
        read_suite(path)


def result(name, label, seed, ap, **more):
    job = Job(name, label, seed, "quickstart.yaml", ())
    return {"job": asdict(job), "AP": ap, "AP50": ap, "minutes": 1.0, "diverged": ap is None, "recoveries": 0,
            "warnings": 0, "error": "", **more}  # fmt: skip


def test_medians_ranges_and_ratios(tmp_path):
    results = [result("one", "a", s, ap) for s, ap in enumerate((0.1, 0.3, 0.2))]
    results += [result("one", "b", s, ap, minutes=m) for s, (ap, m) in enumerate(((0.4, 1.0), (None, 3.0), (0.6, 2.0)))]
    a, b = rows(results, "a")
    assert (a["AP"], a["AP low"], a["AP high"], a["ratio"]) == (0.2, 0.1, 0.3, 1.0)
    # a diverged run counts as 0 in the median, and is not in the range
    assert (b["AP"], b["AP low"], b["AP high"], b["minutes"], b["diverged"]) == (0.4, 0.4, 0.6, 2.0, 1)
    assert b["ratio"] == pytest.approx(2.0)
    text = write_table(results, tmp_path, "a")
    assert "| one | b | 3 | 0.400 (0.400 to 0.600) |" in text
    assert "b: median ratio 2.00 over 1 datasets" in text
    assert (tmp_path / "suite.md").read_text() == text
    assert len(list(csv.DictReader((tmp_path / "suite.csv").open()))) == 2
    assert (tmp_path / "suite.png").read_bytes().startswith(b"\x89PNG")


def tiny(tmp_path, **changes):
    folder = tmp_path / "one" / "a" / "seed-0"
    job = Job("one", "a", 0, "quickstart.yaml", (*SMALL, "solver.max_iter=2", "data.val=1"), folder=str(folder))
    return replace(job, **changes)


def test_run_job_and_finished_result(tmp_path):
    job = tiny(tmp_path)
    assert job.result() is None
    outcome = run_job(job)
    assert outcome == job.result()
    assert (outcome["error"], outcome["diverged"]) == ("", False)
    assert 0 <= outcome["AP"] <= outcome["AP50"] <= 1
    assert replace(job, keys=(*job.keys, "solver.base_lr=0.1")).result() is None  # a different job


def test_diverged_run_has_a_result(tmp_path):
    outcome = run_job(tiny(tmp_path, keys=(*SMALL, "solver.base_lr=1e30", "solver.clip_norm=null", "data.val=1")))
    assert outcome["diverged"]
    assert "step " in outcome["error"]


def test_command_resumes(tmp_path, monkeypatch, capsys):
    keys = json.dumps([*SMALL, "solver.max_iter=1", "data.val=1"])
    (tmp_path / "list.yaml").write_text(
        f"seeds: [0]\nkeys: {keys}\nconfigurations: {{a: {{config: quickstart.yaml}}}}\nsets: {{one: {{keys: []}}}}\n"
    )
    command = [str(tmp_path / "list.yaml"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert "| one | a | 1 |" in capsys.readouterr().out
    monkeypatch.setattr(suite.subprocess, "Popen", None)  # no process may be started
    assert main(command) == 0


def test_shipped_list():
    listed = read_suite(TOOLS / "benchmarks" / "suite.yaml")
    held = [name for name, entry in listed.sets.items() if entry.held_back]
    assert len(held) * 3 == len(listed.sets)
    assert all(entry.about for entry in listed.sets.values())
    assert jobs(listed, Path(), Path(), held_back=True)


def test_an_earlier_table_is_moved_and_a_plot_that_fails_is_a_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "suite.csv").write_text("mine")
    monkeypatch.setattr(suite, "_plot", lambda *_: 1 // 0)
    write_table([], tmp_path)
    assert (tmp_path / "earlier-1" / "suite.csv").read_text() == "mine"
    assert "suite.png is not drawn: ZeroDivisionError" in caplog.text
    assert (tmp_path / "suite.md").exists()
