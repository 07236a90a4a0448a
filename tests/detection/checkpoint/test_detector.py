import pytest
import torch

from detection import build_model, load_detector, load_weights
from detection.checkpoint.detector import save_detector
from detection.checkpoint.metadata import KEY, Classes
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


@pytest.mark.parametrize("averaged", [False, True])
def test_of_a_training_checkpoint_the_average_is_taken(saved, averaged, caplog):
    """last.pth, with a snapshot for recovery beside the weights."""
    model, path = saved
    content = torch.load(path, weights_only=True)
    weights = model.state_dict()
    state = {f"model.{name}": tensor for name, tensor in weights.items()}
    if averaged:
        state |= {f"average.module.{name}": tensor + 1 for name, tensor in weights.items()}
        state["average.n_averaged"] = torch.tensor(3)
    snapshot = {"Recovery": {"snapshot": {name: tensor + 2 for name, tensor in state.items()}}}
    torch.save({KEY: content[KEY], "state_dict": state, "callbacks": snapshot, "optimizer_states": []}, path)
    loaded, _ = load_detector(path)
    assert torch.equal(loaded.rpn.conv.weight, model.rpn.conv.weight + (1 if averaged else 0))
    assert ("the moving average of the weights (state_dict.average) is taken" in caplog.text) is averaged
