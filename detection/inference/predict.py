"""``resdet predict`` as a function: detect on sources, write detections, drawn images, crops and a video."""

import glob
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from detection.evaluation.visualize import RGBImage
from detection.inference.detections import Detections
from detection.inference.predictor import Predictor, free_name, write_annotated
from detection.inference.sources import Frame, Limits, count_frames, find_sources, read_sources
from detection.inference.stream import Behind
from detection.inference.video import VideoWriter
from detection.inference.views import Views
from detection.inference.writers import WRITERS, CocoWriter
from detection.utils.atomic_io import replacing, require_new, sync, write_json
from detection.utils.errors import optional
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)
_RESULTS, _MANIFEST = "detections.json", "predict.json"
_NEW = {
    "yolo": ("labels", "classes.txt"),
    "voc": ("annotations",),
    "csv": ("detections.csv",),
    "jsonl": ("detections.jsonl",),
}
MoveEarlier = Callable[[Path, list[str]], None]


@dataclass(frozen=True)
class PredictOptions:
    """What is made of the detections.

    Attributes:
        output: folder.
        format: a key of :data:`detection.inference.writers.WRITERS`.
        threshold: least score of boxes that are drawn and cropped.
        images: draw images; frames of videos go to ``video`` alone.
        crops: write each detection's part of its image to crops/CLASS/.
        video: FILE.mp4 for the drawn frames.
        batch_size: images of one size at once; None chooses by memory.
        views: scales, flip and tiles.
        limits: of what is read.
    """

    output: Path
    format: str = "coco"
    threshold: float = 0.5
    images: bool = True
    crops: bool = False
    video: Path | None = None
    batch_size: int | None = None
    views: Views = field(default_factory=Views)
    limits: Limits = field(default_factory=Limits)


@dataclass
class Summary:
    """What a run did: images and frames, detections, and the messages of what could not be read."""

    images: int = 0
    detections: int = 0
    unreadable: list[str] = field(default_factory=list)


def predict(
    load: Callable[[], Predictor], inputs: Sequence[str | Path], options: PredictOptions, move_earlier: MoveEarlier
) -> Summary:
    """Detect on everything that inputs name, and write the results.

    Args:
        load: opens the detector, after the inputs were found and before anything is moved or written.
        inputs: of :func:`detection.inference.sources.find_sources`.
        options: what to make of the detections.
        move_earlier: moves results of an earlier run out of the way (folder, names of files).

    Raises:
        FileNotFoundError, ValueError: an input does not exist, or the detector cannot be opened.
        FileExistsError: a file of the results exists and is not an earlier run's.
    """
    output = options.output
    sources = find_sources(inputs, own_files(output, inputs))
    if options.video is not None:
        require_new([options.video], "--video")
    predictor = load()
    made = made_before(output)
    move_earlier(output, [_RESULTS, *map(glob.escape, made)])
    names = [*_NEW.get(options.format, ()), *(["crops"] if options.crops else [])]
    require_new([output / name for name in names], "--output")
    return _Run(predictor, options).go(sources)


class _Run:
    def __init__(self, predictor: Predictor, options: PredictOptions) -> None:
        self.predictor, self.options, self.summary = predictor, options, Summary()
        self.writer = WRITERS[options.format](options.output, predictor.classes, predictor.category_ids)
        self.names: set[str] = set()  # of results
        self.taken: set[str] = set()  # of drawn images
        self.drawn: dict[int, str] = {}
        self.video: VideoWriter | None = None

    def go(self, sources: Sequence[str]) -> Summary:
        options = self.options
        limits = self.predictor.limits(options.limits)
        frames = read_sources(sources, limits)
        with ExitStack() as stack:
            bar = stack.enter_context(progress_bar())
            task = bar.add_task("detecting", total=count_frames(sources, limits))
            behind, in_order = stack.enter_context(Behind()), stack.enter_context(Behind(workers=1))
            found = self.predictor.detect_frames(frames, options.batch_size, options.views)
            stack.callback(found.close)  # type: ignore[attr-defined]  # generators
            for frame, detections in found:
                if detections is None:
                    self.summary.unreadable.append(frame.error)
                    _LOG.error("skipped: %s", frame.error)
                else:
                    self._take(frame, detections, behind)
                    if options.video is not None:
                        in_order.submit(self._add_to_video, options.video, frame, detections)
                bar.advance(task)
            if options.video is not None:
                in_order.submit(self._end_video, options.video)
        self._finish()
        return self.summary

    def _take(self, frame: Frame, detections: Detections, behind: Behind) -> None:
        self.summary.images += 1
        self.summary.detections += len(detections)
        name, number = frame.name, 2
        while name.lower() in self.names:
            name, number = f"{frame.name}-{number}", number + 1
        self.names.add(name.lower())
        self.writer.add(frame, detections, name)
        shown = detections[detections.scores >= self.options.threshold]
        if self.options.images and frame.index is None:
            path = free_name(self.options.output, Path(f"{frame.name}.jpg"), self.taken)
            behind.submit(self._draw, self.summary.images, frame, shown, path)
        if self.options.crops and frame.image is not None:
            behind.submit(write_crops, frame.image, shown, self.options.output / "crops", name)

    def _draw(self, number: int, frame: Frame, detections: Detections, path: Path) -> None:
        assert frame.image is not None
        with optional(frame.source):
            write_annotated(frame.image, detections, self.options.threshold, path)
            self.drawn[number] = path.name

    def _add_to_video(self, path: Path, frame: Frame, detections: Detections) -> None:
        assert frame.image is not None
        with optional(f"frame {frame.index} of {frame.source}"):
            shown = detections[detections.scores >= self.options.threshold]
            if self.video is None:
                # images: five a second
                self.video = VideoWriter(_part(path), frame.rate or Fraction(5))
            self.video.write(shown.draw(frame.image))

    def _end_video(self, path: Path) -> None:
        if self.video is None:
            _LOG.warning("%s is not written: there was no frame for it", path)
            return
        self.video.__exit__()
        sync(_part(path))
        _part(path).replace(path)

    def _finish(self) -> None:
        drawn = [name for _, name in sorted(self.drawn.items())]
        crops = ["crops"] if (self.options.output / "crops").exists() and self.options.crops else []
        if isinstance(self.writer, CocoWriter):
            self.writer.finish([*drawn, *crops])
            return
        files = [*self.writer.finish(), *drawn, *crops]
        write_json(self.options.output / _MANIFEST, {"made by": "resdet predict", "drawn": files})


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def write_crops(image: RGBImage, detections: Detections, folder: Path, name: str) -> None:
    """Write each detection's part of an image to FOLDER/CLASS/NAME-K.jpg."""
    for k, (box, label) in enumerate(zip(detections.boxes, detections.names, strict=True), 1):
        x1, y1 = np.floor(box[:2]).astype(int).clip(min=0)
        x2, y2 = np.ceil(box[2:]).astype(int)
        crop = image[y1:y2, x1:x2]
        if not crop.size:
            continue
        place = folder / ("".join(c if c.isalnum() or c in "-_ " else "_" for c in label).strip() or "_")
        with optional(place):
            place.mkdir(parents=True, exist_ok=True)
            with replacing(place / f"{name}-{k}.jpg") as part:
                Image.fromarray(crop).save(part, "JPEG", quality=92)


def own_files(output: Path, inputs: Sequence[str | Path]) -> list[Path]:
    """Return what an input folder may contain of this function's own results: the output folder, or, where that is an input
    too or has one in it, what earlier runs made there."""
    folder = output.resolve()
    if not any(folder in (Path(path).resolve(), *Path(path).resolve().parents) for path in inputs):
        return [output]
    return [*(output / name for name in made_before(output)), *output.glob("earlier-*")]


def made_before(output: Path) -> list[str]:
    """Return the names of what an earlier run made in a folder beside its detections.json."""
    made: list[str] = []
    for file in (_RESULTS, _MANIFEST):
        try:
            names = json.loads((output / file).read_text(encoding="utf-8"))["drawn"]
            made += [name for name in names if Path(name).name == name]
        except (OSError, ValueError, LookupError, TypeError):  # none, or another program's
            continue
        made += [file] if file == _MANIFEST else []
    return made
