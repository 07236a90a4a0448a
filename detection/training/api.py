"""Python API for training and evaluation: ``resdet train`` with your datasets, callbacks and loggers."""

import dataclasses
import functools
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from backbone.weights import Weights, read_weights
from detection.checkpoint.detector import local_file, require_metadata
from detection.checkpoint.exported import target_of
from detection.config import Config, config_from_dict, load_config, override
from detection.data.annotations import Annotations, DataError
from detection.data.image import read_image
from detection.data.opening import Source
from detection.inference.runtimes import ExportedDetector
from detection.modeling.faster_rcnn import FasterRCNN
from detection.training.planning.plan import make_plan
from detection.training.run import Components, evaluate_only, train_config

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        output: the run's folder.
        metrics: of the last evaluation, as in metrics.json; None without a validation set.
        best: checkpoint of the best evaluation, for :func:`detection.load_detector` and ``Predictor``.
    """

    output: Path
    metrics: dict[str, Any] | None
    best: Path


def train(
    config: Config | str | Path,
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    resume: bool = False,
    train_set: Annotations | None = None,
    val_set: Annotations | None = None,
    model: FasterRCNN | None = None,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Any] = (),
) -> Run:
    """Train a detector, evaluate it, and write the run's folder.

    Args:
        config: a configuration, a YAML file, the bare name of a shipped one, or a folder of data, for which one is chosen
            (:func:`detection.make_plan`).
        overrides: "key=value" entries.
        output: the run's folder (default: output/CONFIG_NAME); an earlier run in it is moved to a subfolder unless resumed.
        resume: resume from its last.pth.
        train_set, val_set: annotations that replace the configuration's datasets (``detection.data.open``,
            ``Annotations.from_arrays``); without ``val_set`` there is no evaluation.
        model: a detector with its initial weights, which replaces the configuration's; the configuration's model
            section is then ignored.
        callbacks: Lightning callbacks.
        loggers: Lightning loggers; they also receive every row of metrics.jsonl.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: invalid or missing configuration, data or weights.
    """
    name = config if isinstance(config, str | Path) else "config"
    settings = _settings(config, overrides) if isinstance(config, str | Path) else config
    if isinstance(config, Config) and overrides:
        settings = config_from_dict(override(dataclasses.asdict(config), overrides))
    source = None
    if train_set is not None:
        if val_set is not None and val_set.classes != train_set.classes:
            raise DataError(
                f"different classes:\n  train_set: {', '.join(train_set.classes)}\n  val_set: {', '.join(val_set.classes)}"
            )
        # images are read from files; the rest of the data section (sizes, augmentation) applies
        channels = model.in_channels if model is not None else settings.model.in_channels
        source = Source(train_set, val_set, functools.partial(read_image, channels=channels))
    elif val_set is not None:
        raise DataError("val_set requires train_set: pass both, or set the datasets in the configuration")
    folder = Path(output) if output is not None else Path("output") / Path(name).stem
    metrics = train_config(
        settings,
        folder,
        resume=resume,
        config_name=str(name),
        components=Components(source, model, callbacks, loggers),
    )
    return Run(folder, metrics, folder / "best.pth")


def _settings(config: str | Path, overrides: Sequence[str]) -> Config:
    """Load a configuration, or choose one for a folder of data."""
    if not Path(config).expanduser().is_dir():
        return load_config(config, overrides)
    plan = make_plan(config, overrides, measure=False)
    _LOG.info("%s", plan.text())
    return plan.config


def evaluate(
    weights: str | Path | Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    model: FasterRCNN | None = None,
) -> dict[str, Any]:
    """Evaluate a trained detector on its validation set, or on another; return the content of metrics.json.

    Args:
        weights: best.pth or last.pth of a run, or an exported FILE.onnx, FILE.xml or FILE.pt2; or several best.pth, for an
            ensemble (ResNet paper, appendix B) with the first one's configuration.
        overrides: "key=value" entries that change the run's configuration, such as data.root.
        output: folder for metrics.json, detections.json and images; None writes no files.
        model: the model to fill, where its backbone or head was a module of your own.

    Raises:
        FileNotFoundError, ValueError: invalid or missing weights or data, or no validation set.
    """
    first, *others = [weights] if isinstance(weights, str | Path) else weights
    weights = first
    file: Weights | ExportedDetector
    if target_of(weights):
        file = ExportedDetector(weights)
        config = config_from_dict(override(file.info.config, overrides), str(weights))
        check_exported_keys(overrides, str(weights))
    else:
        file = read_weights(local_file(weights))
        config = require_metadata(file).config(str(weights), overrides)
    keys = [key for key in overrides if key.startswith("model.")]
    with tempfile.TemporaryDirectory() as scratch:
        metrics = evaluate_only(config, file, Path(output or scratch), keys, str(weights), model, others)
    return metrics or {}  # other ranks have none


def check_exported_keys(overrides: Sequence[str], weights: str) -> None:
    """Raise ValueError where an override would change what an exported file holds for good."""
    held = [key for key in overrides if key.startswith(("model.", "data.short_side", "data.max_side"))]
    if held:
        raise ValueError(f"{weights} holds its model and sizes: {held[0]} goes to resdet export")
