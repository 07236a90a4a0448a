"""Issues of annotations and images: their kinds, and what training does about each. Readers, the dataset check and
evaluation report the same ones."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

DROPS = "drops"  # training loses data
NOTE = "note"  # for information
REFUSES = "training refuses to start"

# kind, as written to dataset.json -> severity, and what training does about it
KINDS: dict[str, tuple[str, str]] = {
    "broken annotations": (DROPS, REFUSES),
    "unknown class": (DROPS, REFUSES),
    "repeated name": (DROPS, REFUSES),
    "repeated class": (DROPS, REFUSES),
    "boxes look relative": (DROPS, REFUSES),
    "boxes look like pixels": (DROPS, REFUSES),
    "several images of one name": (DROPS, REFUSES),
    "nothing to train on": (DROPS, REFUSES),
    "boxes look like x1, y1, x2, y2": (DROPS, "read as x, y, width, height, clipped at the image's edge; convert them"),
    "missing image": (DROPS, "skipped"),
    "missing annotations": (DROPS, "the image is skipped"),
    "shape without a box": (DROPS, "skipped: neither a rectangle nor a polygon"),
    "stray annotation": (DROPS, "skipped: its image is not listed"),
    "unreadable image": (DROPS, "skipped, or replaced by another image; evaluated with no detections"),
    "non-finite box": (DROPS, "dropped, in evaluation too"),
    "degenerate box": (DROPS, "dropped: no width or no height"),
    "box outside": (DROPS, "dropped: does not overlap the image"),
    "repeated box": (DROPS, "duplicates are dropped"),
    "image in train and val": (DROPS, "used; inflates the metrics on val"),
    "image listed twice": (DROPS, "used twice, each with its own objects: join the entries"),
    "image like another in train and val": (NOTE, "used; where they are the same scene, inflates the metrics on val"),
    "same image twice": (NOTE, "used twice"),
    "classes in another order": (NOTE, "classes are matched by name"),
    "class names alike": (NOTE, "two classes; rename one if they are the same"),
    "ignored objects": (
        NOTE,
        "read as difficult: not trained on (data.keep_difficult), neither right nor wrong in evaluation",
    ),
    "difficult unclear": (NOTE, "read as not difficult"),
    "number in quotes": (NOTE, "read as the number"),
    "image without label file": (NOTE, "an image without objects"),
    "relative boxes": (NOTE, "multiplied by the image's size"),
    "several boxes in an object": (NOTE, "each is an object"),
    "box across the edge": (NOTE, "clipped to the image"),
    "another size stated": (NOTE, "the size of the image file is used"),
    "another file name stated": (NOTE, "the image of the annotation file's name is used"),
    "rotated image": (NOTE, "rotated by its EXIF orientation"),
    "not RGB": (NOTE, "converted to RGB"),
    "unused file": (NOTE, "not read: in none of the splits used"),
    "class without objects": (NOTE, "its output of the detector is never trained"),
    "class with few objects": (NOTE, "fewer than 10 to train on: hardly learned"),
    "object that no anchor reaches": (NOTE, "learned by the RPN from its best anchor alone"),
    "class in one set alone": (NOTE, "no training objects, or no ground truth to evaluate on"),
}
_EXAMPLES = 3  # in a message


@dataclass(frozen=True)
class Issue:
    """One issue of a dataset.

    Attributes:
        kind: a key of KINDS.
        file: the file that has it.
        object: number from 1, or id, of the object in the file.
        found: the offending value.
    """

    kind: str
    file: str
    object: str | None = None
    found: str = ""

    @property
    def drops(self) -> bool:
        """Return whether training loses data."""
        return KINDS[self.kind][0] == DROPS

    @property
    def refuses(self) -> bool:
        """Return whether training refuses to start."""
        return KINDS[self.kind][1] == REFUSES

    def to_json(self) -> dict[str, Any]:
        """Return the issue as a JSON object, with its severity and consequence."""
        return {**asdict(self), "drops": self.drops, "then": KINDS[self.kind][1]}

    def __str__(self) -> str:
        where = f"{self.file}, {_object(self.object)}" if self.object else self.file
        return f"{where}: {self.kind}" + (f", {self.found}" if self.found else "")


def _object(name: str) -> str:
    return name if "[" in name or name.startswith("line ") else f"object {name}"


def refusal(issues: Iterable[Issue]) -> str:
    """Return a message about the issues for which training refuses to start, empty where there are none."""
    refused = [issue for issue in issues if issue.refuses]
    if not refused:
        return ""
    more = len(refused) - _EXAMPLES
    lines = [str(issue) for issue in refused[:_EXAMPLES]] + ([f"… and {more} more"] if more > 0 else [])
    return "\n".join([*lines, "(resdet check-dataset lists all issues)"] if len(refused) > 1 else lines)


def warn(logger: logging.Logger, issues: Sequence[Issue]) -> None:
    """Log a warning for each kind of issue that loses data, with their number and the first of them."""
    for kind, (severity, consequence) in KINDS.items():
        found = [issue for issue in issues if issue.kind == kind] if severity == DROPS else []
        if found:
            examples = "; ".join(str(issue) for issue in found[:_EXAMPLES])
            logger.warning("%d × %s (%s): %s", len(found), kind, consequence, examples)
