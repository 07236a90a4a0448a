"""Requirements on a report's numbers, such as AP>=0.40, for scripts that must fail without them."""

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_OPERATORS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_FORM = re.compile(
    r"\s*(?P<name>[^<>=\[\]]+?)\s*(?:\[(?P<label>.+)\])?\s*(?P<sign>>=|<=|>|<)\s*(?P<value>[-+.\deE]+)\s*"
)


@dataclass(frozen=True)
class Requirement:
    """A metric, or that of a class, and a bound on it."""

    text: str
    name: str
    label: str | None
    sign: str
    value: float


def parse(text: str) -> Requirement:
    """Return a requirement from a text: NAME>=VALUE, or NAME[CLASS]>=VALUE; also <=, > and <.

    Raises:
        ValueError: another form; says what was wanted.
    """
    found = _FORM.fullmatch(text)
    try:
        value = float(found["value"]) if found else None
    except ValueError:
        value = None
    if found is None or value is None:
        raise ValueError(f"--require wants a form such as 'AP>=0.40' or 'AP50[dog]>=0.6', got {text!r}")
    return Requirement(text.strip(), found["name"], found["label"], found["sign"], value)


def check(requirements: Sequence[Requirement], numbers: dict[str, Any]) -> list[str]:
    """Return a line for each requirement that is not met; an undefined number meets none.

    Raises:
        ValueError: an unknown metric or class; lists those there are.
    """
    failures = []
    for requirement in requirements:
        value = _value(requirement, numbers)
        if value is None:
            failures.append(f"{requirement.text}: not met, it is undefined")
        elif not _OPERATORS[requirement.sign](value, requirement.value):
            failures.append(f"{requirement.text}: not met, it is {value:.4f}")
    return failures


def _value(requirement: Requirement, numbers: dict[str, Any]) -> float | None:
    if requirement.label is None:
        values = {row["name"]: row["value"] for row in numbers["metrics"]}
        values |= {"ECE": numbers["calibration"]["ECE"]}
    else:
        rows = {row["class"]: row for row in numbers["classes"]}
        if requirement.label not in rows:
            raise ValueError(
                f"--require {requirement.text}: no class {requirement.label!r}; there are {', '.join(rows)}"
            )
        values = {k: v for k, v in rows[requirement.label].items() if not isinstance(v, str)}
    if requirement.name not in values:
        raise ValueError(f"--require {requirement.text}: no number {requirement.name!r}; there are {', '.join(values)}")
    return values[requirement.name]
