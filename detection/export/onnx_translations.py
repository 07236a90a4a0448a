"""What ``torch.onnx.export`` does not know of a detector, in ONNX's operators (opset 18)."""

from collections.abc import Callable
from typing import Any

import torch

import detection.ops.nms  # noqa: F401  # registers the operator


def translations() -> dict[Any, Callable[..., Any]]:
    """Return the table for ``torch.onnx.export(…, custom_translation_table=…)``.

    Raises:
        ImportError: onnxscript is not installed.
    """
    from onnxscript import opset18 as op

    def batched_nms_mask(boxes: Any, valid: Any, iou: float, limit: int) -> Any:
        """One NonMaxSuppression: every set a batch of one class, its scores the ranks, those of invalid boxes below 0."""
        shape = op.Shape(valid)
        count = op.Cast(op.Gather(shape, op.Constant(value_int=1)), to=1)
        places = op.CumSum(op.Cast(op.Expand(op.Constant(value_float=1.0), shape), to=1), op.Constant(value_int=1))
        rank = op.Sub(op.Constant(value_float=1.0), op.Div(places, op.Add(count, op.Constant(value_float=1.0))))
        scores = op.Where(valid, rank, op.Constant(value_float=-1.0))
        scores = op.Unsqueeze(scores, op.Constant(value_ints=[1]))  # [B, 1, n]
        chosen = op.NonMaxSuppression(
            boxes,
            scores,
            op.Constant(value_ints=[limit]),
            op.Constant(value_floats=[iou]),
            op.Constant(value_floats=[0.0]),
        )  # [m, 3]: set, class, box
        where = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_float=1.0), op.Slice(op.Shape(where), [0], [1]))
        zeros = op.Expand(op.Constant(value_float=0.0), shape)
        return op.Greater(op.ScatterND(zeros, where, ones), op.Constant(value_float=0.5))

    def roi_pool(x: Any, regions: Any, spatial_scale: float, height: int, width: int) -> Any:
        pooled = op.MaxRoiPool(x, regions, pooled_shape=[height, width], spatial_scale=spatial_scale)
        return pooled, op.Identity(pooled)  # torchvision's second output, where the maxima were, is not used

    def stable_sort(x: Any, *, stable: bool = False, dim: int = -1, descending: bool = False) -> Any:
        """TopK over the whole length, which gives the lower index first among equals."""
        axis = op.Constant(value_ints=[dim])
        length = op.Gather(op.Shape(x), axis)
        return op.TopK(x, length, axis=dim, largest=descending)

    return {
        torch.ops.aten.sort.stable: stable_sort,
        torch.ops.resdet.batched_nms_mask.default: batched_nms_mask,
        torch.ops.torchvision.roi_pool.default: roi_pool,
    }
