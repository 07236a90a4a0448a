import pytest
import torch

from detection import build_model
from detection.config import ModelConfig, RoIConfig
from detection.inference import cuda_graphs
from detection.inference.cuda_graphs import RecordedDetector, Recordings


class FakeRecordings(Recordings):
    """Log captures instead of making CUDA graphs."""

    def __init__(self, limit):
        super().__init__(lambda batch, settings: ("ran", settings), limit)
        self.notes = []

    def record(self, batch, settings):
        self.notes.append((tuple(batch.shape), settings))
        return lambda x: ("replayed", settings)


def test_recurring_keys_are_recorded():
    graphs = FakeRecordings(limit=2)
    a, b, c = (torch.zeros(1, 3, 4, n) for n in (4, 5, 6))
    assert [graphs(a, 1)[0] for _ in range(3)] == ["ran", "replayed", "replayed"]
    assert graphs(a, 2)[0] == "ran"  # other settings
    assert graphs(a.to(memory_format=torch.channels_last), 1)[0] == "ran"  # other memory format
    assert graphs.notes == [((1, 3, 4, 4), 1)]
    assert [graphs(b, 1)[0] for _ in range(2)] == ["ran", "replayed"]
    assert [graphs(c, 1)[0] for _ in range(3)] == ["ran"] * 3  # the limit is reached
    assert graphs.notes == [((1, 3, 4, 4), 1), ((1, 3, 4, 5), 1)]
    assert graphs(a, 1)[0] == "replayed"
    graphs.forget()
    assert graphs(a, 1)[0] == "ran"


def small():
    torch.manual_seed(0)
    return build_model(ModelConfig(backbone="resnet18", norm="gn", roi=RoIConfig(resolution=4)), 3).eval()


def test_cpu_raises():
    with pytest.raises(ValueError, match="require a detector on a GPU, it is on cpu"):
        RecordedDetector(small())


def test_recorded_detector_equals_the_detector(monkeypatch):
    monkeypatch.setattr(cuda_graphs, "is_gpu", lambda device: True)
    monkeypatch.setattr(cuda_graphs, "graphs_work", lambda device: True)
    monkeypatch.setattr(cuda_graphs, "_Recording", lambda function, batch: function)
    model = small()
    model.roi_head.score_threshold = 0.0
    recorded = RecordedDetector(model)
    images = [torch.rand(3, 64, 80)]
    for _ in range(3):
        for key, value in model(images)[0].items():
            assert torch.equal(recorded(images)[0][key], value)
    assert len(recorded.graphs.recorded) == 1
    recorded.half()
    assert not recorded.graphs.recorded
    model.train()
    with pytest.raises(RuntimeError, match="for evaluation only"):
        recorded(images)
    assert RecordedDetector(model).training


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
def test_replays_equal_the_detector(half):
    model = small().cuda()
    model.roi_head.score_threshold = 0.0
    recorded = RecordedDetector(model, sizes=2)
    generator = torch.Generator("cuda").manual_seed(0)
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        for size in ((96, 128), (96, 128), (96, 128), (64, 80), (64, 80), (96, 128)):
            images = [torch.rand(3, *size, device="cuda", generator=generator) for _ in range(2)]
            for recorded_output, output in zip(recorded(images), model(images), strict=True):
                for key, value in output.items():
                    torch.testing.assert_close(recorded_output[key], value)
    with torch.no_grad():
        model.roi_head.classes.bias.add_(torch.arange(4.0, device="cuda"))  # in place: the graph reads the new values
    # a new autocast context, because the first one caches the cast of the old bias
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        assert torch.equal(recorded(images)[0]["labels"], model(images)[0]["labels"])
