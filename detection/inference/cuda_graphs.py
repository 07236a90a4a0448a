"""CUDA graphs: capture a detector's kernels for an image size and replay them, which removes the overhead of launching
some hundred kernels per image from Python."""

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
# (batch, settings); settings are all else that determines which kernels are launched
Function = Callable[[Tensor, Any], Any]


class RecordedDetector(nn.Module):
    """A detector in evaluation mode that replays CUDA graphs: ``model(images)``, as :class:`FasterRCNN`.

    A graph is captured the second time an image size occurs. It reads the weights at their addresses, so in-place updates
    and ``load_state_dict`` take effect; moving the model to another device or dtype through this module drops the graphs.
    After changing settings such as a threshold, call :meth:`forget`. Where CUDA graphs do not work (:func:`graphs_work`),
    the detector runs without them.

    Args:
        model: on a GPU; its parameters are shared.
        sizes: maximum number of graphs, each of which holds the memory of a forward pass. Further sizes run without.

    Raises:
        ValueError: the model is not on a GPU, or ``model.padded`` is False.
    """

    def __init__(self, model: FasterRCNN, sizes: int = 8) -> None:
        super().__init__()
        device = next(model.parameters()).device
        if not is_gpu(device):
            raise ValueError(
                f"CUDA graphs require a detector on a GPU, it is on {device}: call model.cuda(), or use it without graphs"
            )
        if model.padded is False:
            raise ValueError("CUDA graphs require fixed shapes, and model.padded is false: set it to null or true")
        self.model, self.graphs = model, Recordings(model.detect, sizes if graphs_work(device) else 0)
        self.train(model.training)

    @torch.no_grad()
    def forward(self, images: Sequence[Tensor]) -> list[Detections]:
        """Return the detections of images, float RGB 0..1 [3, H, W] each."""
        if self.model.training:
            raise RuntimeError(
                "RecordedDetector is for evaluation only: train the wrapped model, and call eval() on this one"
            )
        check_images(images, self.model.in_channels)
        sizes = tuple((image.shape[-2], image.shape[-1]) for image in images)
        return without_padding(self.graphs(self.model.batch(images), sizes))

    def forget(self) -> None:
        """Drop all graphs."""
        self.graphs.forget()

    def _apply(self, fn: Any, recurse: bool = True) -> "RecordedDetector":
        self.forget()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]


@functools.cache
def graphs_work(device: torch.device) -> bool:
    """Return whether a captured NMS equals torchvision's when replayed with other boxes; warn if not.

    Uses the test case of :func:`detection.ops.nms.check_nms`. Without the Triton NMS a detector cannot be captured.
    """
    if not has_kernel(device):  # has logged the reason
        _LOG.warning("CUDA graphs are disabled: they require the Triton NMS")
        return False
    try:
        problem = check_nms(_recorded_nms, device)
    except Exception as error:  # a driver or library without support
        problem = str(error).strip().partition("\n")[0] or type(error).__name__
    if problem:
        _LOG.warning("CUDA graphs are disabled: they do not work on this machine (%s)", problem)
    return not problem


def _recorded_nms(boxes: Tensor, valid: Tensor, iou: float, limit: int) -> Tensor:
    """Run NMS by replaying a graph that was captured with other boxes."""
    recording = _Recording(lambda x: batched_nms_mask(x, valid, iou, limit), boxes.flip(0))
    kept: Tensor = recording(boxes)
    return kept


class Recordings:
    """Captures ``function(batch, settings)`` as CUDA graphs, one per shape and settings, and replays them.

    Args:
        function: launches the same kernels for the same shape and settings, without a sync.
        limit: maximum number of graphs. Further keys run without: replacing graphs costs more than it saves.
    """

    def __init__(self, function: Function, limit: int) -> None:
        self.function, self.limit = function, limit
        self.recorded: dict[Hashable, Any] = {}
        self.seen: set[Hashable] = set()

    def __call__(self, batch: Tensor, settings: Hashable) -> Any:
        autocast_dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        key = (batch.shape, batch.stride(), batch.dtype, autocast_dtype, settings)
        if key not in self.recorded:
            # a key that occurs once is not worth a capture
            if key not in self.seen or len(self.recorded) >= self.limit:
                self.seen.add(key)
                return self.function(batch, settings)
            self.recorded[key] = self.record(batch, settings)
        return self.recorded[key](batch)

    def record(self, batch: Tensor, settings: Any) -> Callable[[Tensor], Any]:
        """Capture ``function`` for a batch; return a function that replays the graph with a batch of the same shape."""
        return _Recording(lambda x: self.function(x, settings), batch)

    def forget(self) -> None:
        """Drop all graphs."""
        self.recorded.clear()
        self.seen.clear()


class _Recording:
    def __init__(self, function: Callable[[Tensor], Any], batch: Tensor) -> None:
        self.input, self.graph = batch.clone(), torch.cuda.CUDAGraph()
        enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
        # autocast's cached casts of weights would be freed while the graph still reads them
        with (
            torch.cuda.device(batch.device),
            torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False),
        ):
            # warm-up passes, which initialise libraries and compile kernels
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    function(self.input)
            torch.cuda.current_stream().wait_stream(stream)
            # thread_local: the pin-memory thread may allocate during capture
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.output = function(self.input)

    def __call__(self, batch: Tensor) -> Any:
        self.input.copy_(batch)
        self.graph.replay()
        return tree_map(torch.clone, self.output)  # the next replay overwrites the output
