"""A trained detector on images: files, PIL images or arrays, in the original image's pixels."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detection.checkpoint.detector import local_file, read_detector
from detection.checkpoint.exported import target_of
from detection.config import Config
from detection.data import transforms
from detection.data.image import MAX_PIXELS, as_pixels, read_image
from detection.evaluation.visualize import RGBImage
from detection.inference.cuda_graphs import RecordedDetector
from detection.inference.detections import Detections, label_filter
from detection.inference.interop import sahi_model
from detection.inference.over_dataset import scale_back
from detection.inference.runtimes import ExportedDetector
from detection.inference.sources import Frame, Limits, find_sources, read_sources
from detection.inference.stream import choose_batch_size, detect_stream
from detection.inference.views import Views, detect_augmented, detect_tiles
from detection.modeling.at_test_time import AtTestTime
from detection.modeling.build import at_test_time
from detection.modeling.faster_rcnn import FasterRCNN
from detection.ops.device import autocast, default_device, use_gpu
from detection.utils.atomic_io import replacing
from detection.utils.precision import Precision, autocast_dtype, precision_name

ImageLike = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Sides:
    """What images are resized to: the shorter side, the longer one at most, and the (height, width) that they must fit."""

    short: int
    long: int
    within: tuple[int, int] | None = None

    def scaled(self, factor: float) -> "Sides":
        """Return sides a factor as long."""
        return Sides(max(round(self.short * factor), 1), max(round(self.long * factor), 1), self.within)


_ONE_VIEW = Views()
_NOTHING = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)


class Predictor:
    """A trained detector, ready for images.

    Args:
        weights: best.pth or last.pth of a run, or what ``resdet export`` wrote: FILE.onnx, FILE.xml (OpenVINO), FILE.pt2.
        device: "cpu", "cuda", "cuda:1", "mps"; None takes a GPU where there is one. Exported files run on the CPU, but
            FILE.pt2.
        precision: float32, bf16, fp16, or auto: bf16 where the device multiplies it natively, else fp16 on a GPU, else
            float32.
        score_threshold: detections need a higher score; None keeps the detector's own (0.05).
        classes: names of the only classes to return; None returns all.
        cuda_graphs: replay a recording for image sizes that come again (on a GPU).
        max_pixels: height times width of the largest image file that is decoded; None takes what the detector was trained
            with (``data.max_pixels``).
        padded: run the form with a fixed number of slots; None picks by device. Detections are the same.
        overrides: "key=value" entries that change the detector's configuration, such as model.roi.nms=soft_gaussian.
        model: the model to fill, where its backbone or head was a module of your own.

    Attributes:
        classes: the K class names of the detector.
        category_ids: their ids in COCO results.
        channels: of the images that it takes: 3 is RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a detector of this project, or a class that it does not have.
    """

    def __init__(
        self,
        weights: str | Path,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "auto",
        score_threshold: float | None = None,
        classes: Sequence[str] | None = None,
        cuda_graphs: bool = False,
        padded: bool | None = None,
        max_pixels: int | None = None,
        overrides: Sequence[str] = (),
        model: FasterRCNN | None = None,
    ) -> None:
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold is a fraction from 0 to 1, got {score_threshold}")
        exported = target_of(weights)
        self.device = torch.device(device or ("cpu" if exported else default_device()))
        use_gpu(self.device)
        self._dtype = autocast_dtype(precision, self.device)
        self.weights, self.precision, self.score_threshold = str(weights), precision, score_threshold
        self._least_score = -1.0  # all that the detector gives
        self._detector: FasterRCNN | AtTestTime | RecordedDetector | ExportedDetector
        self._scales: Sequence[int] = ()  # of multi-scale testing
        if exported:
            if model is not None or cuda_graphs or padded is not None or overrides:
                raise ValueError(
                    f"{weights} is an exported file: model=, cuda_graphs=, padded= and overrides= are for best.pth"
                )
            self._detector = self._open_exported(weights, score_threshold)
        else:
            detector, config, metadata = read_detector(local_file(weights), overrides, model)
            if score_threshold is not None:
                detector.roi_head.score_threshold = score_threshold
            if padded is not None:
                detector.padded = padded
            self.channels = detector.in_channels
            self.classes, self.category_ids = metadata.names, metadata.category_ids
            self.config: Config = config
            self._sides: Sides | None = Sides(config.data.short_side[-1], config.data.max_side)
            self.max_pixels = config.data.max_pixels
            self.model: FasterRCNN = detector.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
            tested = at_test_time([self.model], config.test)
            self._scales = config.test.scales
            self._detector = RecordedDetector(self.model) if cuda_graphs and tested is self.model else tested
        self.max_pixels = max_pixels or self.max_pixels
        self._labels = label_filter(classes, self.classes)

    def _open_exported(self, path: str | Path, score_threshold: float | None) -> ExportedDetector:
        detector = ExportedDetector(path, precision_name(self._dtype), self.device)
        info = detector.info
        if score_threshold is not None and score_threshold < info.score_threshold:
            raise ValueError(
                f"score_threshold={score_threshold} is lower than the {info.score_threshold} that {path} was exported with: "
                f"export it again with model.roi.score_threshold={score_threshold}"
            )
        self._least_score = -1.0 if score_threshold is None else score_threshold
        self.classes, self.category_ids = info.classes, info.category_ids
        self.channels = 3  # others are not exported
        self.max_pixels = info.max_pixels
        self._sides = None if info.resize else Sides(info.short_side, info.max_side, info.size)
        return detector

    @overload
    def __call__(self, images: ImageLike, *, batch_size: int = 1) -> Detections: ...
    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...], *, batch_size: int = 1) -> list[Detections]: ...
    def __call__(
        self, images: ImageLike | list[Any] | tuple[Any, ...], *, batch_size: int = 1
    ) -> Detections | list[Detections]:
        """Detect on an image, or on each of a list.

        Args:
            images: paths, PIL images, uint8 RGB arrays [H, W, 3], or a list of them.
            batch_size: images at once; those of one batch are padded to its largest.

        Returns:
            Detections of the image, or a list of them in the order of the images.

        Raises:
            FileNotFoundError, ValueError, TypeError: an image that cannot be read, or is of another form.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not isinstance(images, list | tuple):
            return self._detect([as_array(images, self.max_pixels, self.channels)])[0]
        return [
            detections
            for chunk in chunks(images, batch_size)
            for detections in self._detect([as_array(image, self.max_pixels, self.channels) for image in chunk])
        ]

    def stream(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        batch_size: int | None = None,
        views: Views = _ONE_VIEW,
        limits: Limits | None = None,
    ) -> Iterator[tuple[Frame, Detections | None]]:
        """Detect on every image and frame of a source, one after another, while threads read those that come next.

        Args:
            source: what :func:`detection.inference.sources.find_sources` takes, or a list of it: files, folders, wildcards,
                lists, http(s) addresses, videos, rtsp://…, a webcam's number, "-".
            batch_size: images of one size at once; None takes what the memory of a GPU holds, and 1 on a CPU.
            views: scales, flip and tiles.
            limits: of images, addresses and videos; None takes ``max_pixels`` and the usual ones.

        Yields:
            The frame and its detections; None where it could not be read (``frame.error``).

        Raises:
            FileNotFoundError, ValueError: a source does not exist.
        """
        given = [source] if isinstance(source, str | Path) else list(source)
        sources = find_sources(given)
        return self.detect_frames(read_sources(sources, limits or self.limits(Limits())), batch_size, views)

    def limits(self, given: Limits) -> Limits:
        """Return limits with the detector's own of an image, and its channels."""
        return replace(given, max_pixels=self.max_pixels, channels=self.channels)

    def detect_frames(
        self, frames: Iterator[Frame], batch_size: int | None = None, views: Views = _ONE_VIEW
    ) -> Iterator[tuple[Frame, Detections | None]]:
        """Yield frames with their detections, as :meth:`stream`."""
        if views.tile is not None or views.augmented:
            return detect_stream(frames, lambda images: [self.detect_views(image, views) for image in images], 1)
        if batch_size is not None:
            return detect_stream(frames, self._detect, batch_size)
        return self._detect_chosen(frames)

    def _detect_chosen(self, frames: Iterator[Frame]) -> Iterator[tuple[Frame, Detections | None]]:
        first = next(frames, None)
        if first is None:
            return
        size = 1 if first.image is None else choose_batch_size(self, first.image, self.device)
        yield from detect_stream(itertools.chain([first], frames), self._detect, size)

    def detect_views(self, image: RGBImage, views: Views) -> Detections:
        """Detect on an image [H, W, 3] seen several ways."""

        def detect(pixels: RGBImage) -> Detections:
            if not views.augmented:
                return self._detect([pixels])[0]
            return detect_augmented(lambda x, scale: self._detect([x], scale)[0], pixels, views, *self._merging)

        if views.tile is None or max(image.shape[:2]) <= views.tile:
            return detect(image)
        template = Detections(*_NOTHING, self.classes, self.category_ids)
        return detect_tiles(sahi_model(detect, self.classes), image, views, template)

    @property
    def _merging(self) -> tuple[float, int]:
        """The IoU of the detector's NMS, and how many detections it gives."""
        if isinstance(self._detector, ExportedDetector):
            return self._detector.info.nms_iou, self._detector.info.top
        return self.model.roi_head.nms_iou, self.model.roi_head.max_detections

    def _detect(self, images: Sequence[RGBImage], scale: float = 1.0) -> list[Detections]:
        sides = self._sides if scale == 1 or self._sides is None else self._sides.scaled(scale)
        with autocast(self.device, self._dtype):
            outputs = detect_images(self._detector, images, sides, self.device, self._scales)
        return [self._as_detections(output) for output in outputs]

    def _as_detections(self, output: dict[str, Tensor]) -> Detections:
        boxes, scores, labels = (
            output[key].to("cpu", kind).numpy()
            for key, kind in (("boxes", torch.float32), ("scores", torch.float32), ("labels", torch.int64))
        )
        detections = Detections(boxes, scores, labels, self.classes, self.category_ids)
        keep = scores > self._least_score
        if self._labels is not None:
            keep &= np.isin(labels, list(self._labels))
        return detections if keep.all() else detections[keep]


def as_array(image: Any, max_pixels: int = MAX_PIXELS, channels: int = 3) -> RGBImage:
    """Return a path's, a PIL image's or an array's pixels as uint8 RGB [H, W, 3], or of the detector's number of channels.

    Raises:
        FileNotFoundError, ValueError: no such file, or not readable.
        TypeError: another form; says which.
    """
    if isinstance(image, str | Path):
        return read_image(image, max_pixels, channels)
    if isinstance(image, Image.Image):
        return as_pixels(image, channels)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        if image.ndim == 2 and channels == 1:
            return image[:, :, None]
        if image.ndim == 3 and image.shape[2] == channels:
            return image
    kind = "RGB array" if channels == 3 else "array"
    what = f"an array of {image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    raise TypeError(f"wanted a path, a PIL image or a uint8 {kind} [H, W, {channels}], got {what}")


def detect_images(
    model: Callable[..., Any],
    images: Sequence[RGBImage],
    sides: Sides | None,
    device: torch.device,
    scales: Sequence[int] = (),
) -> list[Any]:
    """Detect on RGB images [H, W, 3] resized to the given sides (None: the model does that), and to the short sides of
    multi-scale testing, and return detections in the original pixels."""
    if not images:
        return []
    no_boxes = torch.zeros(0, 4)
    resized: list[Tensor] = []
    scaled: list[list[Tensor]] = []
    for image in images:
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)  # [H, W, 3] -> [3, H, W]
        if scales and sides is not None:
            views = transforms.at_scales(tensor, scales, sides.short, sides.long)
            scaled.append([view.to(device).float().div_(255) for view in views])
        if sides is not None:
            tensor = transforms.resize(tensor, no_boxes, sides.short, sides.long, sides.within)[0]
        resized.append(tensor.to(device).float().div_(255))
    outputs = model(resized, scaled) if scaled else model(resized)
    for tensor, image, output in zip(resized, images, outputs, strict=True):
        output["boxes"] = scale_back(output["boxes"], (tensor.shape[-2], tensor.shape[-1]), image.shape[:2])
    return list(outputs)


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield a sequence in pieces of ``size``, the last one shorter."""
    for i in range(0, len(items), size):
        yield items[i : i + size]


def free_name(folder: Path, file: Path, taken: set[str]) -> Path:
    """Return a name for the annotated image: STEM.jpg, or STEM-2.jpg and so on where there is such a file.

    Args:
        folder: of the annotated images.
        file: the image.
        taken: names that this run has given, to which the new one is added: images of one name come from many folders.
            In lower case, since many file systems do not tell A.jpg from a.jpg.
    """
    name, number = f"{file.stem}.jpg", 2
    while name.lower() in taken or os.path.lexists(folder / name):
        name, number = f"{file.stem}-{number}.jpg", number + 1
    taken.add(name.lower())
    return folder / name


def write_annotated(image: RGBImage, detections: Detections, threshold: float, path: Path) -> None:
    """Write the image with the detections of at least ``threshold`` drawn on it."""
    drawn = Image.fromarray(detections[detections.scores >= threshold].draw(image))
    with replacing(path) as part:
        drawn.save(part, "JPEG", quality=92)
