import pytest
import torch

from detection.cli import run


def go(*argv):
    return run("convert-weights", [str(a) for a in argv])


@pytest.fixture
def network(tmp_path):
    """A few tensors of a residual network; nobody looks at their shapes."""
    path = tmp_path / "network.pth"
    names = ("conv1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer4.1.downsample.1.running_var", "fc.bias")
    torch.save({name: torch.randn(2, 3) for name in names}, path)
    return path


def test_there_and_back_is_the_same_to_a_bit(network, tmp_path, capsys):
    assert go(network, tmp_path / "theirs.safetensors", "--to", "detectron2", "--recipe", "torchvision") == 0
    assert "5 tensors" in capsys.readouterr().out
    assert go(tmp_path / "theirs.safetensors", tmp_path / "back.pth", "--to", "torchvision") == 0
    before, after = torch.load(network, weights_only=True), torch.load(tmp_path / "back.pth", weights_only=True)
    after = after.get("model", after)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_errors_of_the_user(network, tmp_path, capsys):
    (tmp_path / "there.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("no weights at all")
    for argv, words in (
        ([network, tmp_path / "there.pth", "--recipe", "torchvision"], "exists"),
        ([tmp_path / "none.pth", tmp_path / "out.pth"], "none.pth"),
        ([tmp_path / "text.pth", tmp_path / "out.pth"], "cannot be read"),
        ([network, tmp_path / "out.pth"], "--recipe"),
        ([network, tmp_path / "out.pth", "--recipe", "torchvision", "--classes", "coco"], "--classes"),
    ):
        assert go(*argv) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "out.pth").exists()
    assert (tmp_path / "there.pth").read_bytes() == b""


@pytest.mark.parametrize(
    "argv", [[], ["a.pth"], ["a.pth", "b.pth", "--to", "keras"], ["a.pth", "b.pth", "--recipe", "x"]]
)
def test_usage_errors(argv):
    with pytest.raises(SystemExit) as ended:
        go(*argv)
    assert ended.value.code == 2
