"""ONNX's NonMaxSuppression as the mask of kept boxes, in ONNX Runtime and OpenVINO, against torchvision's."""

import pytest
import torch
from torch import nn
from torchvision.ops import roi_pool

from detection.export.onnx_translations import translations
from detection.ops.nms import batched_nms_mask, check_nms


class Masks(nn.Module):
    def forward(self, boxes, valid):
        return batched_nms_mask(boxes, valid, 0.5, 12)


def exported(module, *inputs):
    program = torch.export.export(module, inputs)
    return torch.onnx.export(
        program, dynamo=True, custom_translation_table=translations(), optimize=False, verbose=False
    ).model_proto.SerializeToString()


def run(model, *inputs):
    import onnxruntime
    import openvino

    arrays = [x.numpy() for x in inputs]
    session = onnxruntime.InferenceSession(model)
    names = [x.name for x in session.get_inputs()]
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return [
        torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0]),
        torch.from_numpy(compiled(arrays)[0].copy()),
    ]


@pytest.mark.parametrize("runtime", [0, 1], ids=["onnxruntime", "openvino"])
def test_masks_are_torchvisions(runtime):
    """The self-test of this project's kernels: equal, degenerate and invalid boxes, and a limit that is reached."""
    models = {}

    def kernel(boxes, valid, iou, limit):
        class Masks(nn.Module):
            def forward(self, boxes, valid):
                return batched_nms_mask(boxes, valid, iou, limit)

        models[limit] = exported(Masks(), boxes, valid)
        return run(models[limit], boxes, valid)[runtime].bool()

    assert check_nms(kernel, torch.device("cpu")) == ""


def test_no_valid_box_is_an_empty_mask():
    boxes, valid = torch.rand(2, 20, 4), torch.zeros(2, 20, dtype=torch.bool)
    for mask in run(exported(Masks(), boxes, valid), boxes, valid):
        assert not mask.any()


def test_max_pooling_of_regions():
    class Pool(nn.Module):
        def forward(self, x, regions):
            return roi_pool(x, regions, 3, 0.5)

    x = torch.rand(2, 4, 16, 16)
    regions = torch.tensor([[0.0, 1, 2, 20, 30], [1.0, 0, 0, 8, 9], [1.0, 12, 12, 31, 31]])
    for pooled in run(exported(Pool(), x, regions), x, regions):
        assert torch.allclose(pooled, roi_pool(x, regions, 3, 0.5), atol=1e-6)


def test_a_stable_sort_keeps_the_order_of_equals():
    """In ONNX Runtime; OpenVINO's TopK is not stable."""

    class Sort(nn.Module):
        def forward(self, x):
            values, index = x.sort(dim=1, descending=True, stable=True)
            return index + 0 * values.long()

    x = torch.tensor([[1.0, 3, 3, 2, 3, 1], [0, 0, 0, 0, 5, 0]])
    assert run(exported(Sort(), x), x)[0].tolist() == [[1, 2, 4, 3, 0, 5], [4, 0, 1, 2, 3, 5]]
