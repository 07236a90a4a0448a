"""The check's report as text for a terminal and a log."""

import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Any

from detection.data.issues import KINDS

EXAMPLES = 3  # shown per kind


def format_report(report: dict[str, Any]) -> str:
    """Return the report as text: issues by kind, most severe first, then statistics of the splits and anchor coverage."""
    lines = issue_lines(report, EXAMPLES, " (all with --json FILE)")
    for name, split in report["sets"].items():
        lines.append(
            f"\n{name} ({split['where']})\n  {split['pictures']} images, {split['without_objects']} without objects; "
            f"{split['objects']} objects of {sum(map(bool, split['classes'].values()))} classes; "
            f"{split['crowd']} crowd regions, {split['difficult']} difficult"
        )
        lines.append(
            "  object area: {small} small (< 32²), {medium} medium (to 96²), {large} large; {right} boxes touch the right "
            "edge, {bottom} the bottom edge".format(**split["sizes"], **split["edges"])
        )
        if split["aspect_ratios"]:
            low, median, high = split["aspect_ratios"]
            lines.append(
                f"  aspect ratio (height / width): 10% below {low:.2f}, median {median:.2f}, 10% above {high:.2f}"
            )
        classes = ", ".join(f"{label} {count}" for label, count in split["classes"].items())
        lines += textwrap.wrap(classes, 118, initial_indent="  ", subsequent_indent="  ")
    return "\n".join([*lines, "", *anchor_lines(report["anchors"])])


def issue_lines(report: dict[str, Any], examples: int, hint: str = "") -> list[str]:
    """Return the issues by kind, most severe first, with some examples of each and the command that mends it."""
    counts = Counter(issue["kind"] for issue in report["faults"])
    dropping = sum(issue["drops"] for issue in report["faults"])
    lines = [f"issues that lose training data: {dropping}; notes: {len(report['faults']) - dropping}"]
    for kind in KINDS:  # most severe first
        if not counts[kind]:
            continue
        lines.append(f"{counts[kind]:7}  {kind}: {KINDS[kind][1]}")
        issues = [issue for issue in report["faults"] if issue["kind"] == kind]
        for issue in issues[:examples]:
            location = issue["file"] + (f" object {issue['object']}" if issue["object"] else "")
            lines.append(f"           {location}{': ' + issue['found'] if issue['found'] else ''}")
        if len(issues) > examples:
            lines.append(f"           … and {len(issues) - examples} more{hint}")
        if command := report.get("advice", {}).get(kind):
            lines.append(f"         > {command}")
    return lines


def anchor_lines(anchors: dict[str, Any]) -> list[str]:
    """Return the objects' sizes after resizing, and how many of them anchors match."""
    if not anchors["boxes"]:
        return []
    low, median, high = anchors["sides"]
    lines = [
        f"object size after resizing (square root of the area): 10% below {low:.0f} px, median {median:.0f} px, "
        f"10% above {high:.0f} px",
        f"anchor sizes {_numbers(anchors['sizes'])} px match {_fractions(anchors['matched'])} of {anchors['boxes']} boxes "
        "(best anchor of each box)",
    ]
    if anchors["suggestion"]:
        suggestion = anchors["suggestion"]
        lines.append(
            f"  model.anchors.sizes=[{_numbers(suggestion['sizes'])}] would match {_fractions(suggestion['matched'])}"
        )
    return lines


def _fractions(matched: dict[str, float]) -> str:
    return ", ".join(f"{fraction:.1%} at IoU {threshold}" for threshold, fraction in matched.items())


def _numbers(values: Iterable[float]) -> str:
    return ",".join(f"{v:g}" for v in values)
