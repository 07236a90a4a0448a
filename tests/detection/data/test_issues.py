import logging

from detection.data.issues import KINDS, Issue, refusal, warn

LOST = Issue("degenerate box", "a.xml", "2", "cat 1, 1, 1, 5")
BROKEN = Issue("broken annotations", "a.json", "annotations[3]", "bbox [] has 0 values")


def test_an_issue_says_what_training_does():
    lost = LOST.to_json()
    assert (lost["kind"], lost["object"], lost["drops"]) == ("degenerate box", "2", True)
    assert lost["then"] == KINDS["degenerate box"][1]
    assert Issue("not RGB", "a.jpg").to_json()["drops"] is False
    assert (LOST.refuses, BROKEN.refuses) == (False, True)


def test_the_text_says_where_and_what():
    assert str(LOST) == "a.xml, object 2: degenerate box, cat 1, 1, 1, 5"
    assert str(BROKEN) == "a.json, annotations[3]: broken annotations, bbox [] has 0 values"
    assert str(Issue("missing image", "train.txt", None, "a.jpg")) == "train.txt: missing image, a.jpg"


def test_a_refusal_names_the_first_of_what_training_cannot_use():
    assert refusal([LOST]) == ""
    assert refusal([LOST, BROKEN]) == str(BROKEN)
    message = refusal([BROKEN] * 5)
    assert message.count(str(BROKEN)) == 3
    assert "… and 2 more" in message
    assert "check-dataset" in message


def test_warnings_count_what_is_lost(caplog):
    note = Issue("not RGB", "a.jpg")
    warn(logging.getLogger("detection"), [LOST, note, LOST, Issue("missing image", "t", None, "b.jpg")])
    assert len(caplog.messages) == 2
    assert "2 × degenerate box (dropped: no width or no height): a.xml, object 2" in caplog.text
    assert "not RGB" not in caplog.text
