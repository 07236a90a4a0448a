"""Who may import whom, read off the source (ARCHITECTURE.md draws it)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAVES = {
    "boxes",
    "anchors",
    "box_coding",
    "matching",
    "sampling",
    "losses",
    "targets",
    "roi_align",
    "in_parts",
    "nms",
    "nms_kernels",
}
PARTS = {"rpn", "roi_head"}
# room -> rooms of this project that it may import
ALLOWED = {
    "backbone": {"backbone"},
    "leaves": {"leaves"},
    "parts": {"leaves"},
    "faster_rcnn": {"parts", "leaves"},
    "cuda_graphs": {"faster_rcnn", "parts", "leaves"},
    "config": set(),
    "config_io": {"config"},
    "build": {"backbone", "config", "faster_rcnn", "parts", "leaves"},
    "data": {"data", "config", "leaves"},
    "evaluation": {"evaluation"},
    "pretraining": {"pretraining", "backbone", "engine", "config", "config_io", "data"},
    "engine": {
        "engine",
        "backbone",
        "build",
        "config",
        "config_io",
        "cuda_graphs",
        "data",
        "evaluation",
        "faster_rcnn",
        "leaves",
    },
    "cli": {"config", "config_io", "engine", "pretraining"},
    "__main__": {"cli"},
    "detection": {"build", "config", "config_io", "engine", "faster_rcnn"},
    "tools": {
        "backbone",
        "cli",
        "config",
        "config_io",
        "build",
        "cuda_graphs",
        "engine",
        "data",
        "evaluation",
    },  # all but cli for the benchmarks
    "datasets": {"data"},
}
MAY_IMPORT_BACKBONE = {
    "detection/build.py",
    "detection/engine/checkpoint.py",
    "detection/engine/convert.py",
    "detection/engine/layouts.py",
    "detection/engine/module.py",
    "detection/engine/train.py",
    "detection/pretraining/classify.py",
    "detection/pretraining/degradation.py",
    "detection/pretraining/inspection.py",
    "detection/pretraining/networks.py",
    "detection/pretraining/responses.py",
    "detection/pretraining/train.py",
}


def room(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] in ("backbone", "tools", "datasets"):
        return parts[0]
    if parts[0] != "detection":
        return None
    if len(parts) == 1:
        return "detection"
    return "leaves" if parts[1] in LEAVES else "parts" if parts[1] in PARTS else parts[1]


def imports(path: Path) -> list[tuple[str, bool]]:
    """Imported modules, and whether inside a function."""
    tree = ast.parse(path.read_text())
    inside = {n for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [
                (f"{node.module}.{a.name}" if node.module == "detection" else node.module, node in inside)
                for a in node.names
            ]
    return found


def faults(module: str, path: Path) -> list[str]:
    mine = room(module)
    found = []
    for name, _ in imports(path):
        theirs = room(name)
        if theirs is not None and theirs not in ALLOWED[mine]:
            found.append(f"{module} ({mine}) imports {name} ({theirs})")
    return found


FILES = sorted(
    p.relative_to(ROOT)
    for folder in ("backbone", "detection", "tools", "datasets")
    for p in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_one_way(path):
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    assert faults(module, ROOT / path) == []
    if path.parts[0] == "detection" and str(path) not in MAY_IMPORT_BACKBONE:
        assert not [name for name, _ in imports(ROOT / path) if room(name) == "backbone"]


def test_the_check_can_fail(tmp_path):
    (tmp_path / "bad.py").write_text("from detection.engine import train\nimport detection.modeling.rpn\n")
    assert len(faults("detection.evaluation.bad", tmp_path / "bad.py")) == 2


# optional, or slow and needed by one command alone
INSIDE_FUNCTIONS = {
    "benchmarks",
    "detection.training.run",
    "albumentations",
    "detectron2",
    "detectron2.modeling",
    "detectron2.structures",
    "detectron2.utils.events",
    "torch.utils.tensorboard",
    "torchvision.models",
    "torchvision.models.detection",
    "torchvision.models.segmentation",
    "torchvision.datasets",
    "torchcodec.decoders",
    "torchvision.transforms",
    "detectron2.data",
    "detectron2.data.datasets",
    "detection.ops.nms_triton",
    "detection.engine",
    "detection.dataset_check.report",
    "detection.checkpoint.convert",
    "detection.evaluation.results_io",
    "detection.inference.predictor",
    "detection.training.replay",
    "detection.classification.classify",
    "detection.classification.degradation",
    "detection.classification.inspection",
    "detection.classification.config",
    "detection.pretraining",
}


def test_imports_stand_at_the_top():
    hidden = {name for path in FILES for name, inside in imports(ROOT / path) if inside}
    assert hidden <= INSIDE_FUNCTIONS
