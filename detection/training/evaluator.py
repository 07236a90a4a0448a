"""Evaluation of a detector on all ranks; rank 0 computes the metrics and writes the files."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detection.config import Config
from detection.data.loader import EvalSet, eval_loader
from detection.data.opening import Source
from detection.evaluation.coco import MAX_DETECTIONS
from detection.evaluation.report import Report, evaluate, table, write_report
from detection.inference.over_dataset import detect, validation_losses
from detection.inference.runtimes import ExportedDetector
from detection.modeling.build import at_test_time
from detection.modeling.faster_rcnn import FasterRCNN
from detection.report.build import PAGE, write
from detection.report.sources import Inputs, fingerprint, reader_of, run_facts
from detection.training.callbacks.metrics_log import Row
from detection.training.detection_module import DetectionModule
from detection.training.run_files.run_dir import write_comparisons
from detection.utils.atomic_io import write_json
from detection.utils.distributed import is_leader, rank, world_size
from detection.utils.errors import optional
from detection.utils.precision import autocast_dtype
from detection.utils.progress import progress_bar

_LOG = logging.getLogger(__name__)


class Evaluator:
    """Run a detector over the validation set on all ranks; rank 0 computes the metrics and writes the files."""

    def __init__(self, config: Config, source: Source, output: Path) -> None:
        assert source.val is not None
        self.config, self.records, self.output = config, source.val, output
        self.dataset = EvalSet(source.val, source.read, config.data, config.model.in_channels, config.test.scales)
        self.ground_truth = source.val.to_coco()
        self.report: Report | None = None
        self.results: list[dict[str, Any]] | None = None  # of the last evaluation, on rank 0, until they are drawn
        self.train = source.train
        self.last: list[dict[str, Any]] = []  # of the last evaluation

    def __call__(self, module: DetectionModule) -> Row:
        """Return metrics, and with ``solver.val_loss`` losses, for the run's log; empty on other ranks than 0."""
        self.evaluate(module.detector, module.device)
        losses: dict[str, float] = {}
        if self.config.solver.val_loss:
            dtype = autocast_dtype(self.config.solver.precision, module.device)
            losses = validation_losses(module.detector, self._loader(), module.device, self.config.seed, dtype=dtype)
        return {**self.report.metrics, **losses} if self.report is not None else {}

    def _loader(self) -> Any:
        return eval_loader(self.dataset, rank=rank(), world=world_size(), pin=torch.cuda.is_available())

    def _max_detections(self, detector: Any) -> int:
        """Return how many detections of an image count: COCO's 100, or more where the detector gives more."""
        most = detector.info.top if isinstance(detector, ExportedDetector) else detector.roi_head.max_detections
        return max(MAX_DETECTIONS, most)

    def evaluate(self, detector: Any, device: torch.device, others: Sequence[FasterRCNN] = ()) -> None:
        """Evaluate a detector on ``device``, or with ``others`` their ensemble; rank 0 sets ``report`` and ``results``, and
        writes their files."""
        started = time.perf_counter()
        if isinstance(detector, FasterRCNN):
            detector = at_test_time([detector, *others], self.config.test)
        loader = self._loader()
        names = None if self.config.data.format == "coco" else self.records.classes
        with progress_bar(shown=is_leader()) as bar:
            task = bar.add_task("evaluating", total=len(loader))
            results = detect(
                detector,
                loader,
                self.records,
                device,
                dtype=autocast_dtype(self.config.solver.precision, device),
                cuda_graphs=self.config.solver.cuda_graphs,
                names=names,
                tick=lambda: bar.advance(task),
            )
        if not is_leader():
            return
        self.results = self.last = results
        write_json(self.output / "detections.json", results, indent=None)
        if self.config.data.format != "coco":
            # the annotations that detections.json can be evaluated against
            write_json(self.output / "ground_truth.json", self.ground_truth, indent=None)
        report = self.report = evaluate(self.ground_truth, results, max_detections=self._max_detections(detector))
        write_report(report, self.output)
        seconds = time.perf_counter() - started
        _LOG.info("evaluated %d images in %.1f s\n%s", len(self.records), seconds, table(report))

    def draw(self) -> None:
        """Draw the last evaluation's detections on rank 0, once; apart from it, so that weights are saved before."""
        results, self.results = self.results, None
        if results is not None:
            write_comparisons(self.records, self.dataset.read, results, self.output / "pictures")

    def write_page(self) -> None:
        """Write report.html of the last evaluation on rank 0. A failure is a warning."""
        if self.report is None:
            return
        with optional(self.output / PAGE):
            inputs = Inputs(
                title=self.output.name,
                ground_truth=self.ground_truth,
                detections=self.last,
                read=reader_of(self.records, self.dataset.read),
                facts=run_facts(self.output) | {"data fingerprint": fingerprint(self.ground_truth)},
                run=self.output,
                train=self.train,
                val=self.records,
                read_file=self.dataset.read,
            )
            write(inputs, self.output / PAGE, report=self.report)
            _LOG.info("what the detector gets wrong: %s", self.output / PAGE)
