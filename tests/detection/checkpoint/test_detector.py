import pytest
import torch

from detection import build_model, load_detector, load_weights
from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import Classes
from detection.config import Config, ModelConfig

CONFIG = Config(model=ModelConfig(backbone="resnet18", norm="bn", freeze_at=0))
CLASSES = Classes(("cat", "dog"), (17, 18))


@pytest.fixture
def saved(tmp_path):
    model = build_model(CONFIG.model, 2).eval()
    save_detector(tmp_path / "d.pth", model, CONFIG, CLASSES)
    return model, tmp_path / "d.pth"


def test_round_trip(saved):
    model, path = saved
    loaded, names = load_detector(path)
    assert names == ("cat", "dog")
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    other = build_model(CONFIG.model, 2)
    load_weights(other, path)
    assert torch.equal(other.rpn.conv.weight, model.rpn.conv.weight)
    assert not list(path.parent.glob("*.part"))


def test_another_model_raises(saved):
    _, path = saved
    with pytest.raises(ValueError, match=r"4 differences.*roi_head.classes.weight has \[3, 512\], wanted \[6, 512\]"):
        load_weights(build_model(CONFIG.model, 5), path)


def test_backbone_is_not_a_detector(tmp_path):
    torch.save(build_model(CONFIG.model, 2).trunk.state_dict(), tmp_path / "b.pth")
    with pytest.raises(ValueError, match="no detector of this project"):
        load_detector(tmp_path / "b.pth")
    with pytest.raises(FileNotFoundError):
        load_detector(tmp_path / "absent.pth")
