"""Allowed imports between packages, checked in the source (see ARCHITECTURE.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# package -> packages of this project that it may import, besides itself: commands -> {training, inference, classification,
# dataset_check} -> {checkpoint, evaluation, data} -> modeling -> ops; config and utils are leaves
ALLOWED = {
    "backbone": set(),
    "ops": set(),
    "modeling": {"backbone", "ops"},
    "config": {"backbone", "modeling"},  # defaults and names are defined by the constructors
    "utils": set(),
    "data": {"backbone", "config", "ops", "utils"},
    "evaluation": {"data", "utils"},
    "checkpoint": {"backbone", "config", "modeling", "utils"},
    "dataset_check": {"config", "data", "modeling", "ops", "utils"},
    "inference": {"checkpoint", "config", "data", "evaluation", "modeling", "ops", "utils"},
    "training": {
        *(
            "backbone",
            "checkpoint",
            "config",
            "data",
            "dataset_check",
            "evaluation",
            "inference",
            "modeling",
            "ops",
            "utils",
        )
    },
    "classification": {"backbone", "checkpoint", "config", "data", "ops", "training", "utils"},
    "commands": {
        *("backbone", "checkpoint", "classification", "config", "data", "dataset_check", "evaluation", "inference"),
        *("training", "utils"),
    },
    "cli": {"utils"},  # it names commands, which are imported when they run
    "__main__": {"cli"},
    "detection": {"checkpoint", "config", "data", "inference", "modeling", "training"},
    # all but cli for the benchmarks
    "tools": {
        *("backbone", "checkpoint", "cli", "config", "data", "evaluation", "inference", "modeling", "training", "utils")
    },
    "datasets": {"data"},
}
# the one file that knows configuration and model
BUILD = "detection.modeling.build"
MAX_FILES = 16  # of a package


def package_of(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] in ("backbone", "tools", "datasets"):
        return parts[0]
    if parts[0] != "detection":
        return None
    return parts[1] if len(parts) > 1 else "detection"


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return imported modules, and whether each import is inside a function."""
    tree = ast.parse(path.read_text())
    inside = {n for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.Lambda)) for n in ast.walk(f)}
    result = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            result += [(alias.name, node in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            result += [
                (f"{node.module}.{a.name}" if node.module == "detection" else node.module, node in inside)
                for a in node.names
            ]
    return result


def violations(module: str, path: Path) -> list[str]:
    package = package_of(module)
    result = []
    for name, _ in imports(path):
        imported = package_of(name)
        allowed = ALLOWED[package] | {package} | ({"backbone", "config"} if module == BUILD else set())
        if imported is not None and imported not in allowed:
            result.append(f"{module} ({package}) imports {name} ({imported})")
    return result


FILES = sorted(
    p.relative_to(ROOT)
    for folder in ("backbone", "detection", "tools", "datasets")
    for p in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_layers(path):
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
    assert violations(module, ROOT / path) == []


def test_packages_have_few_files():
    for folder in {path.parent for path in FILES if path.parts[0] in ("backbone", "detection")}:
        files = [path for path in FILES if path.parent == folder and path.name != "__init__.py"]
        assert len(files) <= MAX_FILES, f"{folder}: {len(files)} files"


def test_modeling_does_not_import_config():
    for path in FILES:
        if path.parts[:2] in (("detection", "modeling"), ("detection", "ops")) and path.name != "build.py":
            assert not [name for name, _ in imports(ROOT / path) if package_of(name) in ("config", "utils")], path


def test_check_detects_a_forbidden_import(tmp_path):
    (tmp_path / "bad.py").write_text("from detection.training import run\nimport detection.modeling.rpn\n")
    assert len(violations("detection.evaluation.bad", tmp_path / "bad.py")) == 2


# optional, or slow and only used by one command
INSIDE_FUNCTIONS = {
    "albumentations",
    "benchmarks",
    "supervision",
    "timm",
    "timm.models.resnet",
    "timm.layers",
    "detectron2",
    "detectron2.modeling",
    "detectron2.structures",
    "detectron2.utils.events",
    "lightning.pytorch.loggers",
    "torchvision.models",
    "torchvision.models.detection",
    "torchvision.models.segmentation",
    "torchvision.datasets",
    "torchcodec.decoders",
    "torchvision.transforms",
    "detectron2.data",
    "detectron2.data.datasets",
    "detection.ops",
    "detection.training",
    "detection.training.replay",
    "detection.training.run",
    "detection.classification",
}


def test_imports_are_at_module_level():
    hidden = {name for path in FILES for name, inside in imports(ROOT / path) if inside}
    assert hidden <= INSIDE_FUNCTIONS


# modules that are tested in another's file: the Triton kernel beside the loop whose result it must have, by the same cases
TESTED_ELSEWHERE = {"detection/ops/nms_triton.py": "tests/detection/ops/test_nms.py"}


def mirrored(path: Path) -> Path:
    """The test file of a module."""
    return Path("tests", *path.parts[:-1], f"test_{path.name}")


def test_every_module_has_a_test_of_its_name():
    modules = [
        path
        for path in FILES
        if path.parts[0] in ("backbone", "detection") and path.name not in ("__init__.py", "__main__.py")
    ]
    assert len(modules) > 100
    lacking = [str(path) for path in modules if not (ROOT / mirrored(path)).is_file()]
    assert lacking == sorted(TESTED_ELSEWHERE)
    assert all((ROOT / test).is_file() for test in TESTED_ELSEWHERE.values())
