import pytest
import torch

from detection.checkpoint.exported import KEY, parse_info
from detection.export.formats import trace
from detection.inference.runtimes import ExportedDetector

TARGETS = ["torch-export", "onnx", "openvino"]


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_file_says_of_itself_is_inside_it(exported, target):
    info = ExportedDetector(exported[target]).info
    assert info.classes == ("crescent", "cross", "disc", "square", "star", "triangle")
    assert info.category_ids == (1, 2, 3, 4, 9, 6)
    assert (info.size, info.batch, info.short_side, info.max_side) == (None, None, 64, 96)
    assert (info.recipe, info.command, info.top) == ("torchvision", "resdet export", 30)
    assert info.versions["torch"] == torch.__version__.partition("+")[0]


def test_onnx_metadata_is_read_by_onnx_alone(exported):
    import onnx

    model = onnx.load(exported["onnx"])
    assert parse_info({p.key: p.value for p in model.metadata_props}[KEY], "file").recipe == "torchvision"
    assert [x.name for x in model.graph.input] == ["images", "sizes"]
    assert [x.name for x in model.graph.output] == ["boxes", "labels", "scores", "count"]
    assert {x.domain for x in model.opset_import} <= {"", "pkg.onnxscript.torch_lib.common"}


def test_what_cannot_be_traced_is_one_message(exported):
    class Net(torch.nn.Module):
        def forward(self, images, sizes):
            return images[0, 0, 0, 0].item() * images if images.float().mean() > 3 else images

    info = ExportedDetector(exported["onnx"]).info
    with pytest.raises(ValueError, match=r"torch.export cannot take this detector: \w+"):
        trace(Net(), info)
