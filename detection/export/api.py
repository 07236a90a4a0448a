"""Export a trained detector to a file that other programs run, and check it before it is kept."""

import contextlib
import copy
import dataclasses
import importlib.metadata
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detection.checkpoint.detector import local_file, read_detector
from detection.checkpoint.exported import SUFFIXES, ExportInfo, Target
from detection.checkpoint.metadata import Classes
from detection.config import Config, config_to_dict
from detection.data.opening import open_source
from detection.export.fold import fold_norms
from detection.export.formats import CONVERTERS, SAVERS, trace
from detection.export.graph import DetectorGraph
from detection.export.parity import LEAST_IMAGES, Parity, as_seen, check_images, compare
from detection.export.quantize import Agreement, agreement, quantize, sensitivity
from detection.export.resizing import ResizingGraph
from detection.inference.over_dataset import scale_back
from detection.inference.runtimes import ExportedDetector
from detection.modeling.faster_rcnn import FasterRCNN
from detection.modeling.structures import Detections
from detection.utils.atomic_io import require_new, sync

_LOG = logging.getLogger(__name__)
_EXAMPLE = (128, 128)
_PACKAGES = ("resdet", "torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
Step = Callable[[str], None]
Detect = Callable[[Sequence[Tensor]], list[Detections]]


class ParityError(ValueError):
    """An exported file's detections differ from the detector's, and nothing was written; ``parity`` has the differences."""

    def __init__(self, parity: Parity, path: Path) -> None:
        super().__init__(f"the exported detector differs from its source, and {path} is not written:\n{parity}")
        self.parity = parity


@dataclass(frozen=True)
class ExportOptions:
    """How a detector is exported.

    Attributes:
        target: onnx, openvino or torch-export.
        size: (height, width) of the input, or None: free.
        batch: images of the input, or None: free.
        dtype: of the input: uint8, or float32 in 0..1.
        top: detections of an image at most; None takes the detector's.
        command: for the metadata.
        resize: the input is the original image, of any size; ``size`` is what it is resized to fit into, by default a square
            of the configuration's ``data.max_side``.
        int8: quantise to int8 (:mod:`detection.export.quantize`).
        calibrate: images of the training set that ranges are taken from, where no others are given.
    """

    target: Target
    size: tuple[int, int] | None = None
    batch: int | None = 1
    dtype: str = "uint8"
    top: int | None = None
    command: str = ""
    resize: bool = False
    int8: bool = False
    calibrate: int = 64


def export_detector(
    weights: str | Path,
    output: str | Path,
    options: ExportOptions,
    *,
    overrides: Sequence[str] = (),
    images: Sequence[Tensor] | None = None,
    calibration: Sequence[Tensor] | None = None,
    sensitivity_images: int = LEAST_IMAGES,
    model: FasterRCNN | None = None,
    step: Step = lambda text: None,
) -> ExportInfo:
    """Export a detector; the file is written only if its detections are the detector's.

    Args:
        weights: best.pth or last.pth of a run.
        output: FILE.onnx, FILE.xml (FILE.bin is written beside it) or FILE.pt2.
        options: the format, sizes and so on.
        overrides: "key=value" entries that change the detector's configuration, such as model.rpn.after_nms_test=300.
        images: uint8 [3, H, W], at the size that the network sees, to compare on; None draws eight.
        calibration: the same, for int8; None takes images of the training set.
        sensitivity_images: that int8 is measured on part by part; 0 leaves it out.
        model: the model to fill, where its backbone or head was a module of your own.
        step: told what happens next.

    Returns:
        The metadata of the file.

    Raises:
        ParityError: the differences; nothing is written.
        FileExistsError: the output exists.
        ValueError, ImportError: an option that does not go, or a package that is not installed.
    """
    path = Path(output)
    files = check_output(path, options.target)
    detector, config, classes = read_detector(local_file(weights), overrides, model)
    options = with_canvas(options, config)
    graph = prepare(detector, options, config)
    info = describe_export(detector, config, classes, options, graph.top)
    images = list(images) if images is not None else check_images(info.short_side, info.max_side, info.size)
    step("tracing")
    program = trace(graph, info)
    step(f"converting to {options.target}")
    artefact = CONVERTERS[options.target](program, info)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
        part = Path(scratch) / path.name
        SAVERS[options.target](artefact, info, part)
        step("comparing with the detector")
        resizing = graph if isinstance(graph, ResizingGraph) else None
        parity = check_file(ExportedDetector(part), detector, images, resizing)
        if parity.faults:
            raise ParityError(parity, path)
        info = dataclasses.replace(info, parity=parity.to_dict())
        if options.int8:
            samples = list(calibration) if calibration is not None else training_images(config, options)
            artefact, info = to_int8(
                artefact, info, options.target, samples, images, Path(scratch), step, sensitivity_images
            )
        SAVERS[options.target](artefact, info, part)
        ExportedDetector(part)  # what is kept can be opened
        keep(part, files)
    return info


def to_int8(
    artefact: Any,
    info: ExportInfo,
    target: Target,
    samples: Sequence[Tensor],
    images: Sequence[Tensor],
    scratch: Path,
    step: Step,
    sensitivity_images: int = LEAST_IMAGES,
) -> tuple[Any, ExportInfo]:
    """Return the artefact in int8, and its metadata with how it agrees with float32, part by part and as a whole.

    Raises:
        ValueError: it finds nothing of what the float detector finds.
    """

    def detect(candidate: Any) -> ExportedDetector:
        path = Path(tempfile.mkdtemp(dir=scratch)) / f"d{suffix_of(target)}"
        SAVERS[target](candidate, info, path)
        return ExportedDetector(path)

    agreements: dict[str, Agreement] = {}
    few = images[:sensitivity_images]
    step("int8: part by part")
    for part, result in sensitivity(target, artefact, info, few, detect) if few else ():
        agreements[part] = result
        step(f"int8: {part} alone: {result}")
    step(f"int8: calibrating on {len(samples)} images")
    quantised = quantize(target, artefact, info, samples)
    whole = agreement(detect(artefact)(images), detect(quantised)(images))
    if not whole.found:
        raise ValueError(
            f"int8 finds nothing of the {whole.detections} detections of float32: calibrate on other images"
        )
    summary = {name: dataclasses.asdict(value) for name, value in {**agreements, "all": whole}.items()}
    return quantised, dataclasses.replace(info, precision="int8", parity={**info.parity, "int8": summary})


def training_images(config: Config, options: ExportOptions) -> list[Tensor]:
    """Return the first images of the training set, as the network sees them.

    Raises:
        ValueError: the training set is not there.
    """
    source = open_source(config.data)
    if source.train is None:
        raise ValueError("int8 wants images to calibrate on, and there is no training set: --calibrate FOLDER")
    data, count = config.data, min(options.calibrate, len(source.train))
    files = [source.train.files[i] for i in range(count)]
    return [as_seen(source.read(file), data.short_side[-1], data.max_side, options.size) for file in files]


def check_output(path: Path, target: Target) -> list[Path]:
    """Return the files that an export writes, none of which exists yet.

    Raises:
        ValueError: the name does not end as the format's do.
        FileExistsError, FileNotFoundError: one exists, or the folder does not.
    """
    suffix = suffix_of(target)
    if path.suffix.lower() != suffix:
        raise ValueError(f"--output of --to {target} wants a name that ends in {suffix}, got {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} for --output {path}: make it first")
    files = [path, path.with_suffix(".bin")] if target == "openvino" else [path]
    require_new(files, "--output")
    return files


def suffix_of(target: Target) -> str:
    """Return how the names of a format's files end."""
    return next(suffix for suffix, known in SUFFIXES.items() if known == target)


def keep(part: Path, files: Sequence[Path]) -> None:
    """Move a finished file, and what lies beside it, from its scratch folder to its place; FILE.xml after FILE.bin."""
    require_new(files, "--output")
    for file in reversed(files):
        written = part.with_suffix(file.suffix)
        sync(written)
        written.replace(file)


def with_canvas(options: ExportOptions, config: Config) -> ExportOptions:
    """Return the options with the size that images are resized to fit into, where the graph resizes.

    Raises:
        ValueError: a batch of several originals.
    """
    if not options.resize:
        return options
    if options.batch != 1:
        raise ValueError("--with-resize takes one image at a time: originals have several sizes; leave --batch out")
    side = config.data.max_side
    return dataclasses.replace(options, size=options.size or (side, side))


def prepare(detector: FasterRCNN, options: ExportOptions, config: Config) -> DetectorGraph | ResizingGraph:
    """Return the graph of a copy of a detector, on the CPU and with its batch norms folded into convolutions."""
    graph = DetectorGraph(copy.deepcopy(detector).cpu(), options.top).eval()
    folded = fold_norms(graph, torch.zeros(1, 3, *_EXAMPLE))
    _LOG.debug("%d batch norms folded", folded)
    if options.resize and options.size is not None:
        return ResizingGraph(graph, config.data.short_side[-1], config.data.max_side, options.size).eval()
    return graph


def describe_export(
    detector: FasterRCNN, config: Config, classes: Classes, options: ExportOptions, top: int
) -> ExportInfo:
    """Return the metadata of an export, without its parity."""
    return ExportInfo(
        classes=classes.names,
        category_ids=classes.category_ids,
        dtype=options.dtype,
        batch=options.batch,
        size=options.size,
        resize=options.resize,
        short_side=config.data.short_side[-1],
        max_side=config.data.max_side,
        max_pixels=config.data.max_pixels,
        top=top,
        score_threshold=detector.roi_head.score_threshold,
        nms_iou=detector.roi_head.nms_iou,
        architecture=detector.architecture,
        backbone=config.model.backbone,
        recipe=detector.recipe.name,
        config=config_to_dict(config),
        versions=versions(),
        command=options.command,
    )


def versions() -> dict[str, str]:
    """Return the versions of this project and of the packages that take part in an export."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def check_file(
    exported: ExportedDetector, detector: FasterRCNN, images: Sequence[Tensor], resizing: ResizingGraph | None = None
) -> Parity:
    """Compare an exported file with the detector (:func:`detection.export.parity.compare`); where the file resizes, with the
    detector on the images as ``resizing`` does it."""
    info = exported.info
    wanted = reference(detector, info.size)
    if resizing is not None:
        wanted = on_originals(wanted, resizing)
    return compare(wanted, exported, images, threshold=info.score_threshold, top=info.top)


def on_originals(detect: Detect, resizing: ResizingGraph) -> Detect:
    """Return a detector of original images, uint8 [3, H, W], one at a time, that resizes them as a graph does."""

    @torch.no_grad()
    def run(images: Sequence[Tensor]) -> list[Detections]:
        pixels, size, resized = resizing.resize(images[0][None])
        height, width = (int(side) for side in resized)
        (found,) = detect([(pixels[0, :, :height, :width] * 255).round().to(torch.uint8)])
        original = (int(size[0]), int(size[1]))
        return [{**found, "boxes": scale_back(found["boxes"], (height, width), original)}]

    return run


def reference(detector: FasterRCNN, size: tuple[int, int] | None = None) -> Detect:
    """Return the detector itself as a function of uint8 images, in its compact form; with ``size`` as it detects on a batch
    that is padded to it."""

    @torch.no_grad()
    def run(images: Sequence[Tensor]) -> list[Detections]:
        floats = [image.float() / 255 for image in images]
        batch = detector.batch(floats)
        if size is not None:
            height, width = (-(-side // detector.divisor) * detector.divisor for side in size)
            batch = F.pad(batch, (0, width - batch.shape[-1], 0, height - batch.shape[-2]))
        detector.padded = False
        return detector.detect(batch, [(image.shape[-2], image.shape[-1]) for image in images])

    return run
