from detection.dataset_check.text import format_report, issue_lines


def report(*issues, advice=None):
    faults = [{"kind": kind, "file": file, "object": None, "found": "", "drops": drops} for kind, file, drops in issues]
    return {"faults": faults, "advice": advice or {}, "sets": {}, "anchors": {"boxes": 0}}


def test_issues_by_kind_with_examples_and_the_command():
    rows = [("not RGB", f"{i}.png", False) for i in range(5)] + [("degenerate box", "a.xml", True)]
    lines = issue_lines(report(*rows, advice={"not RGB": "resdet data repair …"}), 2)
    assert lines[0] == "issues that lose training data: 1; notes: 5"
    assert lines[1].split() == ["1", "degenerate", "box:", "dropped:", "no", "width", "or", "no", "height"]
    assert [line.strip() for line in lines[3:]] == [
        "5  not RGB: converted to RGB",
        "0.png",
        "1.png",
        "… and 3 more",
        "> resdet data repair …",
    ]


def test_a_report_of_nothing():
    assert format_report(report()).strip() == "issues that lose training data: 0; notes: 0"


def test_a_report_of_an_earlier_version_has_no_advice():
    old = report(("not RGB", "a.png", False))
    del old["advice"]
    assert len(issue_lines(old, 1)) == 3
