"""A data format of your own, a CSV of boxes: resdet train --import own_format.py --config … data.format=csv data.root=…"""
import csv
from collections import defaultdict

from resdet import Annotations, register_format


def read_csv(root, split):
    rows = defaultdict(list)
    for row in csv.DictReader((root / f"{split}.csv").open(encoding="utf-8")):
        rows[str(root / row["file"])].append((row["name"], [float(row[k]) for k in ("x1", "y1", "x2", "y2")]))
    names = sorted({name for objects in rows.values() for name, _ in objects})
    labels = [[1 + names.index(name) for name, _ in objects] for objects in rows.values()]
    return Annotations.from_arrays(list(rows), [[box for _, box in o] for o in rows.values()], labels, names, name=split)


register_format("csv", read_csv)
