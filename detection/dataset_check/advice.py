"""For each kind of issue that a command can mend: that command, with the keys of the data that were checked."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detection.config import Config, DataConfig
from detection.data.annotations import Annotations
from detection.data.issues import Issue
from detection.dataset_check.issues import name_form

_REPAIR = "resdet data repair {keys} {option} --output {output}"


def advice(
    config: Config, issues: Sequence[Issue], splits: Mapping[str, Annotations], anchors: Mapping[str, Any]
) -> dict[str, str]:
    """Return a command line by kind of issue, ready to be run.

    Args:
        config: whose data were checked.
        issues: that were found.
        splits: the sets by name.
        anchors: of the report.
    """
    kinds = {issue.kind for issue in issues}
    keys, output = data_keys(config.data), shlex.quote(f"{config.data.root.rstrip('/')}-repaired")
    commands: dict[str, str] = {}
    for kind, option in (
        ("boxes look relative", "--boxes relative"),
        ("boxes look like x1, y1, x2, y2", "--boxes corners"),
    ):
        if kind in kinds:
            commands[kind] = _REPAIR.format(keys=keys, option=option, output=output)
    if "class names alike" in kinds:
        rename = " ".join(f"--rename {shlex.quote(f'{old}={new}')}" for old, new in alike(splits.values()))
        commands["class names alike"] = _REPAIR.format(keys=keys, option=rename, output=output)
    if config.data.val is not None:
        split = shlex.quote(f"{config.data.root.rstrip('/')}-split")
        command = f"resdet data split {keys} --join --output {split}"
        for kind in ("image in train and val", "image like another in train and val"):
            if kind in kinds:
                commands[kind] = command
    if "class with few objects" in kinds:
        few = [issue.found.rpartition(": ")[0] for issue in issues if issue.kind == "class with few objects"]
        kept = [name for name in next(iter(splits.values())).classes if name not in few]
        if kept and "," not in "".join(kept):  # by which the option divides them
            names = shlex.quote(",".join(kept))
            to = config.data.format if config.data.format in ("coco", "voc", "yolo") else "coco"
            command = f"resdet data subset {keys} --classes {names} --to {to} --output {output}"
            commands["class with few objects"] = command
    if "object that no anchor reaches" in kinds:
        suggestion = anchors.get("suggestion")
        sizes = "auto" if not suggestion else f"[{','.join(f'{size:g}' for size in suggestion['sizes'])}]"
        folder, setting = shlex.quote(config.data.root), shlex.quote(f"model.anchors.sizes={sizes}")
        commands["object that no anchor reaches"] = (
            f"resdet train {folder} {shlex.quote(f'data.format={config.data.format}')} {_sets(config.data)} {setting}"
        )
    return commands


def data_keys(data: DataConfig) -> str:
    """Return the keys that name a dataset, quoted for a shell."""
    return f"{shlex.quote(f'data.format={data.format}')} {shlex.quote(f'data.root={data.root}')} {_sets(data)}"


def alike(sets: Iterable[Annotations]) -> list[tuple[str, str]]:
    """Return pairs of class names that differ in case, blanks, - or _ alone: the rarer, and the one to join it to."""
    counts: dict[str, int] = {}
    for records in sets:
        for k, name in enumerate(records.classes, 1):
            counts[name] = counts.get(name, 0) + int((records.labels == k).sum())
    best: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        best.setdefault(name_form(name), name)
    return [(name, best[name_form(name)]) for name in sorted(counts) if best[name_form(name)] != name]


def _sets(data: DataConfig) -> str:
    return " ".join(
        shlex.quote(f"data.{key}={name or 'null'}") for key, name in (("train", data.train), ("val", data.val))
    )
