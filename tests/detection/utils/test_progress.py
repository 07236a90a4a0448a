import datetime

import pytest

from detection.utils.progress import clock, progress_bar


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00:00"), (59.9, "0:00:59"), (61, "0:01:01"), (3599, "0:59:59"), (3600, "1:00:00"), (90000, "25:00:00")],
)
def test_clock_by_hand(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize("seconds", [1, 754, 4321, 86399])
def test_clock_equals_datetimes(seconds):
    assert clock(seconds) == str(datetime.timedelta(seconds=seconds))


def test_the_bar_counts_on_the_error_stream(capsys):
    with progress_bar() as bar:
        task = bar.add_task("detecting", total=3)
        bar.advance(task, 3)
    out, error = capsys.readouterr()
    assert out == ""
    assert "detecting" in error
    assert "3/3" in error


def test_a_bar_that_is_not_shown_says_nothing(capsys):
    with progress_bar(shown=False) as bar:
        bar.advance(bar.add_task("detecting", total=3), 3)
    assert capsys.readouterr() == ("", "")
