import pytest
from defusedxml import ElementTree as careful

from detection.data.readers import voc_xml
from detection.data.readers.voc_xml import read_xml

OBJECT = "<object><name>cät</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8.5</ymax></bndbox></object>"


def put(tmp_path, text, encoding="utf-8"):
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    return tmp_path / "a.xml"


@pytest.mark.parametrize(
    ("head", "encoding", "fast"),
    [
        ("", "utf-8", True),
        ("<?xml version='1.0'?>", "utf-8", True),
        ('<?xml version="1.0" encoding="UTF-8"?>\n', "utf-8", True),
        ('<?xml version="1.0" encoding="iso-8859-1"?>', "latin-1", False),
        ('<?xml version="1.0" encoding="utf-16"?>', "utf-16", False),
        ("<!-- a comment -->", "utf-8", False),
        ("\ufeff", "utf-8", True),
    ],
)
def test_both_parsers_read_the_same(tmp_path, monkeypatch, head, encoding, fast):
    calls = []
    monkeypatch.setattr(voc_xml, "parse", lambda *a: calls.append(1) or careful.parse(*a))
    path = put(tmp_path, f"{head}<annotation>{OBJECT}</annotation>", encoding)
    found = read_xml(path)
    assert [(o.name, o.box) for o in found.objects] == [("cät", (0, 1, 9, 8.5))]
    assert found.issues == []
    assert (calls == []) == fast


@pytest.mark.parametrize("text", ["", "<annotation>", "<a></b>", "\x00", "&amp;", "<a>&x;</a>"])
def test_what_is_not_xml_is_an_issue(tmp_path, text):
    found = read_xml(put(tmp_path, text))
    assert not found.valid
    assert "not valid XML" in str(found.issues[0])


def test_a_degenerate_box_stays_one(tmp_path):
    text = OBJECT.replace("<xmax>9<", "<xmax>1<")
    assert read_xml(put(tmp_path, f"<annotation>{text}</annotation>")).objects[0].box == (1, 1, 1, 8.5)
