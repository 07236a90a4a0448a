"""Read one XML file of VOC's: its objects, image name and size.

VOC's corners are 1-based and inclusive. This module alone converts them to 0-based boxes with exclusive x2 and y2, by
subtracting 1 from xmin and ymin, as detectron2 does.
"""

import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import numpy as np
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, parse

from detection.data.annotations import DataError
from detection.data.issues import Issue

_OTHER_ENCODING = re.compile(rb"""\s*<\?xml[^>]*encoding\s*=\s*["'](?!utf-8["'])""", re.IGNORECASE)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """One box of an XML file: class name, box xyxy (0-based, exclusive x2 and y2), difficult, and the object's number."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool
    number: str = "1"


@dataclass(frozen=True)
class XmlFile:
    """The content of an XML file.

    Attributes:
        objects: that could be read.
        file_name: of the image, empty where it is not stated.
        size: (height, width) as stated, often 0x0 or wrong; None where it is not.
        issues: of the file and its objects.
        valid: False for a file that is not XML.
    """

    objects: list[VocObject]
    file_name: str
    size: tuple[int, int] | None
    issues: list[Issue]
    valid: bool = True


def read_xml(path: Path) -> XmlFile:
    """Return the content of one XML file; tags may have any order, ``pose`` and ``truncated`` are optional.

    A file that is not XML or has entities, and an object without name or corners, are issues.
    """
    try:
        tree = _parse_xml(path)
    except (ParseError, DefusedXmlException, ValueError, LookupError, OSError) as error:
        reason = str(error) or type(error).__name__
        issue = Issue("broken annotations", str(path), None, f"not valid XML, or not allowed: {reason}")
        return XmlFile([], "", None, [issue], valid=False)
    objects, issues = [], []
    unclear, several = Counter[str](), 0
    for number, element in enumerate(tree.iter("object"), 1):
        boxes = element.findall("bndbox")
        several += len(boxes) > 1
        difficult = (element.findtext("difficult") or "0").strip()
        if difficult.lower() not in ("0", "1", "", "true", "false"):
            unclear[difficult] += 1
        try:
            if not boxes:
                raise DataError(_no_box(element))
            found = [
                VocObject(_text(element, "name"), _box(box), difficult.lower() in ("1", "true"), str(number))
                for box in boxes
            ]
        except DataError as error:
            issues.append(Issue("broken annotations", str(path), str(number), str(error)))
            continue
        finite = [o for o in found if np.isfinite(o.box).all()]
        if len(finite) < len(found):
            issues.append(Issue("non-finite box", str(path), str(number), str([*found[0].box])))
        objects += finite
    if several:
        issues.append(Issue("several boxes in an object", str(path), None, f"{several} objects"))
    issues += [Issue("difficult unclear", str(path), None, f"{v!r}: {n} objects") for v, n in unclear.items()]
    return XmlFile(objects, (tree.findtext("filename") or "").strip(), _size(tree), issues)


def _parse_xml(path: Path) -> Element:
    """Return the root of an XML file.

    A file that has no declarations ("<!"), in which entities lie, is read by the parser in C, faster than the careful one,
    to which all others go: also those in an encoding that may hide what they have.
    """
    content = path.read_bytes()
    if b"<!" not in content and b"\0" not in content and not _OTHER_ENCODING.match(content):
        try:
            return fromstring(content)
        except Exception:  # the careful parser says what is wrong
            pass
    root: Element = parse(io.BytesIO(content)).getroot()
    return root


def _no_box(element: Element) -> str:
    if element.find("robndbox") is not None:
        return "a rotated box (<robndbox>), which is not supported: convert it to <bndbox>"
    return "no <bndbox>"


def _text(element: Element, tag: str) -> str:
    value = element.findtext(tag)
    if value is None or not value.strip():
        raise DataError(f"no <{tag}>")
    return value.strip()


def _box(element: Element) -> tuple[float, float, float, float]:
    values = []
    for tag in _CORNERS:
        text = element.findtext(tag)
        if text is None or not text.strip():
            raise DataError(f"no <bndbox><{tag}>")
        try:
            values.append(float(text))
        except ValueError:
            raise DataError(f"<{tag}> {text.strip()!r} is not a number") from None
    x1, y1, x2, y2 = values
    # a degenerate box stays degenerate: the conversion must not make it one pixel wide
    return (x1 - 1 if x2 > x1 else x1, y1 - 1 if y2 > y1 else y1, x2, y2)


def _size(root: Element) -> tuple[int, int] | None:
    try:
        height, width = (int(float(root.findtext(f"size/{tag}") or "nan")) for tag in ("height", "width"))
    except (ValueError, OverflowError):
        return None
    return (height, width) if 0 <= height < 2**31 and 0 <= width < 2**31 else None
