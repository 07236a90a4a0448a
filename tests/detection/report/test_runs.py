import json

import pytest

from detection.report.runs import differences, find_runs, flatten, read_config, read_run, runs_csv, runs_page, runs_text


def make(folder, lr=0.1, **metrics):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"model: {{backbone: resnet18, architecture: c4}}\nsolver: {{base_lr: {lr}, max_iter: 8}}\n"
    )
    rows = [
        {"step": 4, "loss": 1.0, "seconds": 2.0},
        {"step": 4, "AP": 0.4},
        {"step": 8, "loss": 1.0, "seconds": 4.0},
        {"step": 8, "AP": 0.3},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 9, "lo')
    if metrics:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_rows(tmp_path):
    make(tmp_path / "b" / "deep", AP=0.3)
    make(tmp_path / "a", 0.2)
    make(tmp_path / "a" / "earlier-1")
    found = find_runs(tmp_path)
    assert found == [tmp_path / "a", tmp_path / "b" / "deep"]
    row = read_run(found[1], tmp_path)
    wanted = {
        "run": "b/deep",
        "AP": 0.3,
        "best_AP": 0.4,
        "best_step": 4,
        "step": 8,
        "steps": 8,
        "backbone": "resnet18",
        "seed": None,
    }
    assert wanted.items() <= row.items()
    assert row["hours"] == pytest.approx(3 * 8 / 3600)
    assert read_run(found[0], tmp_path)["AP"] is None


def test_differences(tmp_path):
    configs = [read_config(make(tmp_path / name, lr)) for name, lr in (("a", 0.1), ("b", 0.2))]
    assert differences(configs) == {"solver.base_lr": ["0.1", "0.2"]}
    assert differences([*configs[:1], {}])["model.backbone"] == ['"resnet18"', None]
    assert flatten({"a": {"b": [1, None]}, "c": {}}) == {"a.b": "[1, null]", "c": "{}"}


def test_no_runs(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no runs"):
        find_runs(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_runs(tmp_path / "none")


def test_broken_files_leave_a_row(tmp_path):
    folder = make(tmp_path / "a")
    for name in ("config.yaml", "metrics.jsonl", "metrics.json", "run.json"):
        (folder / name).write_text("{[")
    assert read_run(folder, tmp_path)["AP"] is None


def test_text_and_csv(tmp_path):
    row = read_run(make(tmp_path / "[b]x", AP=0.3), tmp_path)
    text = runs_text([row, row], {"k": ["1", None]})
    assert "[b]x" in text
    assert "0.300" in text
    assert "the configurations are equal" in runs_text([row], {})
    assert runs_csv([row]).splitlines()[1].startswith("[b]x,c4,resnet18,0.3")


def test_page(tmp_path, browser):
    rows, configs = [], []
    for name, lr in (("a</script>", 0.1), ("b", 0.2)):
        folder = make(tmp_path / name.replace("/", "_"), lr, AP=lr)
        rows.append({**read_run(folder, tmp_path), "run": name})
        configs.append(read_config(folder))
    file = tmp_path / "runs.html"
    file.write_text(runs_page(rows, configs, tmp_path))
    driver = browser.open(file)
    assert "solver.base_lr" in driver.find_element("css selector", "#differences").text
    assert [c.text for c in driver.find_elements("css selector", "#runs tbody td:first-child")] == ["b", "a</script>"]
    driver.find_element("css selector", "#second option[value='0']").click()
    assert "equal" in driver.find_element("css selector", "#differences").text
    assert browser.errors() == browser.requests() == []
