"""A detector whose work for one image size is recorded as a CUDA graph and replayed: the GPU then no longer waits for
Python to launch some hundred kernels an image."""

import functools
import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from detection.modeling.faster_rcnn import FasterRCNN
from detection.modeling.roi_head import without_padding
from detection.modeling.structures import Detections, check_images
from detection.ops.device import is_gpu
from detection.ops.nms import batched_nms_mask, check_nms, has_kernel

_LOG = logging.getLogger(__name__)
# a batch, and what else decides which kernels are launched
Function = Callable[[Tensor, Any], Any]


class RecordedDetector(nn.Module):
    """A detector in evaluation that replays CUDA graphs: ``model(images)``, as :class:`FasterRCNN`.

    An image size is recorded when it comes for the second time. A recording reads the weights where they lie, so what
    is learned in place, or loaded by ``load_state_dict``, counts; moving the model to another device or dtype through this
    module drops the recordings. After a change of its settings (a threshold, say) call :meth:`forget`. Where graphs do not
    work (:func:`graphs_work`), the detector runs without them.

    Args:
        model: on a GPU; its parameters are shared.
        sizes: recordings at most; each holds the memory of a pass. Sizes beyond them run without.

    Raises:
        ValueError: the model is not on a GPU, or was told not to pad.
    """

    def __init__(self, model: FasterRCNN, sizes: int = 8) -> None:
        super().__init__()
        device = next(model.parameters()).device
        if not is_gpu(device):
            raise ValueError(
                f"CUDA graphs want a detector on a GPU, it is on {device}: model.cuda(), or use it as it is"
            )
        if model.padded is False:
            raise ValueError("CUDA graphs want fixed shapes, and model.padded is false: set it to null or true")
        self.model, self.graphs = model, Recordings(model.detect, sizes if graphs_work(device) else 0)
        self.train(model.training)

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[Detections]:
        """Return the detections of images, RGB 0..1 [3, H, W] each."""
        if self.model.training:
            raise RuntimeError("a recorded detector does not train: train the model, and call eval() here")
        check_images(images)
        sizes = tuple((image.shape[-2], image.shape[-1]) for image in images)
        return without_padding(self.graphs(self.model.batch(images), sizes))

    def forget(self) -> None:
        """Drop all recordings."""
        self.graphs.forget()

    def _apply(self, fn: Any, recurse: bool = True) -> "RecordedDetector":
        self.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]


@functools.cache
def graphs_work(device: torch.device) -> bool:
    """Return whether a recorded NMS gives torchvision's result when it is replayed with other boxes; warn where it does not.

    The case is that of :func:`detection.ops.nms.check_nms`. Without Triton's NMS a detector cannot be recorded at all.
    """
    if not has_kernel(device):  # has said why
        _LOG.warning("CUDA graphs are left out: they want Triton's NMS")
        return False
    try:
        fault = check_nms(_recorded_nms, device)
    except Exception as error:  # a driver or a library that cannot record
        fault = str(error).strip().partition("\n")[0] or type(error).__name__
    if fault:
        _LOG.warning("CUDA graphs are left out: they do not work here (%s)", fault)
    return not fault


def _recorded_nms(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    """NMS by a replay of a recording that was made with other boxes."""
    recording = _Recording(lambda x: batched_nms_mask(x, valid, iou, limit), boxes.flip(0))
    kept: Tensor = recording(boxes)
    return kept


class Recordings:
    """``function(batch, settings)``, recorded and replayed.

    Args:
        function: launches the same kernels whenever shape and settings are the same, without a sync.
        limit: recordings at most. What comes after them is not recorded: replacing recordings costs more than it gains.
    """

    def __init__(self, function: Function, limit: int) -> None:
        self.function, self.limit = function, limit
        self.recorded: dict[Hashable, Any] = {}
        self.seen: set[Hashable] = set()

    def __call__(self, batch: Tensor, settings: Hashable) -> Any:
        half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (batch.shape, batch.stride(), batch.dtype, half, settings)
        if key not in self.recorded:
            # one that comes once is not worth a recording
            if key not in self.seen or len(self.recorded) >= self.limit:
                self.seen.add(key)
                return self.function(batch, settings)
            self.recorded[key] = self.record(batch, settings)
        return self.recorded[key](batch)

    def record(self, batch: Tensor, settings: Any) -> Callable[[Tensor], Any]:
        """Return a function that replays what ``function`` does with such a batch."""
        return _Recording(lambda x: self.function(x, settings), batch)

    def forget(self) -> None:
        """Drop all recordings."""
        self.recorded.clear()
        self.seen.clear()


class _Recording:
    def __init__(self, function: Callable[[Tensor], Any], batch: Tensor) -> None:
        self.input, self.graph = batch.clone(), torch.cuda.CUDAGraph()
        enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        # weights that autocast has cast before would be freed while the recording still reads them
        with (
            torch.cuda.device(batch.device),
            torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False),
        ):
            # warm-up passes, in which libraries and kernels set themselves up
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    function(self.input)
            torch.cuda.current_stream().wait_stream(stream)
            # of this thread alone: others pin memory for later batches
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.output = function(self.input)

    def __call__(self, batch: Tensor) -> Any:
        self.input.copy_(batch)
        self.graph.replay()
        return tree_map(torch.clone, self.output)  # the next replay writes into these
