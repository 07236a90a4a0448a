import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_contains_packages_and_configurations(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {n.split("/")[0] for n in names if ".dist-info" not in n}
    assert top == {"backbone", "detection", "resdet.py"}
    assert {"backbone/py.typed", "detection/py.typed"} <= set(names)
    for path in [*ROOT.glob("backbone/**/*.py"), *ROOT.glob("detection/**/*.py")]:
        assert str(path.relative_to(ROOT)) in names
    assert {f"detection/configs/{p.name}" for p in ROOT.glob("configs/*.yaml")} <= set(names)


def test_installed_configurations_are_found_by_bare_name(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import detection; print(detection.__file__); print(detection.load_config('quickstart.yaml').data.format)"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    assert str(tmp_path) in out.stdout
    assert "shapes" in out.stdout


def test_repository_only_describes_the_project():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert not [f for f in listed.stdout.split() if f.startswith((".venv", "output"))]
