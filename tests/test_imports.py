"""Allowed imports between packages, checked in the source (see ARCHITECTURE.md)."""

import ast
import os
import subprocess
import sys
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
    "pages": set(),
    "data": {"backbone", "config", "ops", "utils"},
    "evaluation": {"data", "utils"},
    "analysis": set(),
    "report": {"analysis", "config", "data", "evaluation", "pages", "utils"},
    "checkpoint": {"backbone", "config", "modeling", "utils"},
    "dataset_check": {"config", "data", "modeling", "ops", "pages", "utils"},
    "data_tools": {"config", "data", "utils"},
    "inference": {"analysis", "checkpoint", "config", "data", "evaluation", "modeling", "ops", "utils"},
    "export": {*("backbone", "checkpoint", "config", "data", "evaluation", "inference", "modeling", "ops", "utils")},
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
            "report",
            "utils",
        )
    },
    "classification": {"backbone", "checkpoint", "config", "data", "ops", "training", "utils"},
    "commands": {
        *("analysis", "backbone", "checkpoint", "classification", "config", "data", "data_tools", "dataset_check"),
        *("evaluation", "export", "inference", "ops", "report", "serving", "training", "utils"),
    },
    "serving": {"data", "evaluation", "inference"},
    "cli": {"utils"},  # it names commands, which are imported when they run
    "__main__": {"cli"},
    "detection": {"backbone", "checkpoint", "config", "data", "inference", "modeling", "training"},
    # all but cli for the benchmarks
    "tools": {
        *("backbone", "checkpoint", "classification", "cli", "config", "data", "data_tools", "evaluation", "export"),
        *("inference", "modeling", "report", "training", "utils"),
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
        if folder.name != "commands":  # one file a command, as many as there are
            assert len(files) <= MAX_FILES, f"{folder}: {len(files)} files"


def test_modeling_does_not_import_config():
    for path in FILES:
        if path.parts[:2] in (("detection", "modeling"), ("detection", "ops")) and path.name != "build.py":
            assert not [name for name, _ in imports(ROOT / path) if package_of(name) in ("config", "utils")], path


POSIX = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "readline", "syslog"}  # modules that Windows lacks


def test_what_windows_lacks_is_imported_in_a_try():
    for path in FILES:
        for node in ast.parse((ROOT / path).read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not POSIX & {*names, getattr(node, "module", None)}, path


_UNTIL_TORCH = """
import os, sys
class UntilTorch:
    def find_spec(self, name, *_):
        if name == "torch":
            print(os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK"))
            sys.exit()
sys.meta_path.insert(0, UntilTorch())
sys.platform = {platform!r}
import {package}
"""


@pytest.mark.parametrize(("platform", "wanted"), [("darwin", "1"), ("linux", "None")])
@pytest.mark.parametrize("package", ["detection", "resdet", "backbone", "detection.cli"])
def test_apples_fallback_is_set_before_torch_reads_it(package, platform, wanted):
    program = _UNTIL_TORCH.format(platform=platform, package=package)
    env = {k: v for k, v in os.environ.items() if k != "PYTORCH_ENABLE_MPS_FALLBACK"} | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [wanted]


def device_names(path: Path) -> list[str]:
    """Return what a module asks of torch about devices: whether one is there, or a comparison with a kind of device."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr == "is_available" and "dist" not in ast.unparse(node):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Compare) and ".type" in ast.unparse(node.left):
            found.append(ast.unparse(node))
    return found


def test_choices_by_device_are_in_one_place():
    """ops/ chooses; others ask whether memory is to be pinned, what the machine is called, and which library connects."""
    elsewhere = {
        str(path): device_names(ROOT / path)
        for path in FILES
        if path.parts[0] in ("backbone", "detection") and path.parts[:2] != ("detection", "ops")
    }
    assert {path: names for path, names in elsewhere.items() if names} == {
        "detection/classification/images.py": ["torch.cuda.is_available"],
        "detection/training/evaluator.py": ["torch.cuda.is_available"],
        "detection/training/run.py": ["torch.cuda.is_available"] * 2,
        "detection/training/run_files/environment.py": ["torch.cuda.is_available"],
        "detection/utils/distributed.py": ["device.type == 'cuda'"],
        "detection/utils/precision.py": ["device.type == 'cuda'", "device.type != 'cpu'", "device.type == 'cuda'"],
    }


def test_check_detects_a_forbidden_import(tmp_path):
    (tmp_path / "bad.py").write_text("from detection.training import run\nimport detection.modeling.rpn\n")
    assert len(violations("detection.evaluation.bad", tmp_path / "bad.py")) == 2


# optional, or slow and only used by one command
INSIDE_FUNCTIONS = {
    "albumentations",
    "benchmarks",
    "faster_coco_eval",
    "onnx",
    "nncf",
    "onnxruntime",
    "onnxruntime.quantization",
    "onnxscript",
    "openvino",
    "av",
    "fastapi",
    "fastapi.responses",
    "fiftyone",
    "python_multipart",
    "sahi",
    "sahi.predict",
    "sahi.prediction",
    "supervision",
    "uvicorn",
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
    "detection.training.planning.plan",
    "detection.training.replay",
    "detection.training.run",
    "detection.training.tuning",
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
