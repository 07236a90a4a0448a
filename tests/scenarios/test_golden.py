"""Fixed small runs give the numbers that they gave before (golden.py)."""

import importlib.util
import json
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(spec)
spec.loader.exec_module(golden)
KNOWN = json.loads(golden.FILE.read_text())


@pytest.mark.parametrize("name", list(golden.RUNS))
def test_results_equal_the_golden_file(name, tmp_path):
    known, now = KNOWN["runs"][name], golden.run(golden.RUNS[name], tmp_path)
    assert now["tensors"] == known["tensors"]
    if KNOWN["machine"] == golden.machine():
        assert now == known
        return
    # on other machines sums are rounded otherwise, and what is drawn from near-equal scores differs after some steps
    assert now["losses"][0] == pytest.approx(known["losses"][0], rel=1e-6)
    assert now["losses"] == [pytest.approx(row, rel=0.2, abs=0.05) for row in known["losses"]]
    assert len(now["detections"]) == len(known["detections"])


def test_golden_file_is_small():
    assert golden.FILE.stat().st_size <= 100_000
