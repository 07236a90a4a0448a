import pytest

from detection.report.requirements import check, parse

NUMBERS = {
    "metrics": [{"name": "AP", "value": 0.4}, {"name": "APs", "value": None}, {"name": "AP50@100", "value": 0.7}],
    "calibration": {"ECE": 0.1},
    "classes": [{"class": "a dog", "AP": 0.3, "TP": 3}],
}


@pytest.mark.parametrize("text", ["AP>=0.40", "AP <= 0.4", "ECE<0.2", "AP[a dog]>0.29", "TP[a dog]>=3", "AP50@100>=.7"])
def test_met(text):
    assert check([parse(text)], NUMBERS) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("AP>=0.41", "it is 0.4000"),
        ("AP > 0.4", "it is 0.4000"),
        ("APs>=0", "it is undefined"),
        ("AP[a dog]>=1", "it is 0.3000"),
    ],
)
def test_not_met(text, found):
    assert check([parse(text)], NUMBERS) == [f"{text}: not met, {found}"]


@pytest.mark.parametrize("text", ["AP", "AP=0.4", ">=0.4", "AP>=", "AP>=much", "AP>=--1"])
def test_another_form_is_refused(text):
    with pytest.raises(ValueError, match="--require wants a form such as"):
        parse(text)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no number 'mAP'; there are AP, APs"):
        check([parse("mAP>=0.4")], NUMBERS)
    with pytest.raises(ValueError, match="no class 'cat'; there are a dog"):
        check([parse("AP[cat]>=0.4")], NUMBERS)
