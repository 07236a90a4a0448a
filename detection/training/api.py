"""Training and evaluation from Python: what ``resdet train`` does, with data sets, callbacks and loggers of your own."""

import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from backbone.weights import read_weights
from detection.checkpoint.detector import local_file, require_metadata
from detection.config import Config, config_from_dict, load_config, override
from detection.data.annotations import Annotations, DataError
from detection.data.image import read_image
from detection.data.opening import Source
from detection.modeling.faster_rcnn import FasterRCNN
from detection.training.run import Given, evaluate_only, train_config


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        output: its folder.
        metrics: the last evaluation, as metrics.json has it; None without a validation set.
        best: the weights of the best evaluation, for :func:`detection.load_detector` and ``Predictor``.
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
        config: a configuration, a YAML file, or the bare name of a shipped one.
        overrides: "key=value" entries that change it.
        output: the run's folder (default: output/CONFIG_NAME); an earlier run in it is moved to a subfolder unless resumed.
        resume: resume from its last.pth.
        train_set, val_set: images and boxes in place of those that the configuration names
            (``detection.data.open``, ``Annotations.from_arrays``); without ``val_set`` nothing is evaluated.
        model: the detector to train, in place of the configuration's, with the weights that it has; what the configuration's
            model part says is then not used.
        callbacks: of Lightning.
        loggers: of Lightning; they get every line of metrics.jsonl too.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: configuration, data or weights are not as wanted.
    """
    name = config if isinstance(config, str | Path) else "config"
    settings = load_config(config, overrides) if isinstance(config, str | Path) else config
    if isinstance(config, Config) and overrides:
        settings = config_from_dict(override(dataclasses.asdict(config), overrides))
    source = None
    if train_set is not None:
        if val_set is not None and val_set.classes != train_set.classes:
            raise DataError(
                f"different classes:\n  train_set: {', '.join(train_set.classes)}\n  val_set: {', '.join(val_set.classes)}"
            )
        # their images are files; what else the data part says (sizes, augmentation) holds
        source = Source(train_set, val_set, read_image)
    elif val_set is not None:
        raise DataError("val_set is given without train_set: give both, or name the sets in the configuration")
    folder = Path(output) if output is not None else Path("output") / Path(name).stem
    metrics = train_config(
        settings,
        folder,
        resume=resume,
        config_name=str(name),
        given=Given(source, model, callbacks, loggers),
    )
    return Run(folder, metrics, folder / "best.pth")


def evaluate(
    weights: str | Path,
    overrides: Sequence[str] = (),
    *,
    output: str | Path | None = None,
    model: FasterRCNN | None = None,
) -> dict[str, Any]:
    """Evaluate a trained detector on its validation set, or on another; return what metrics.json holds.

    Args:
        weights: best.pth or last.pth of a run.
        overrides: "key=value" entries that change the run's configuration, such as data.root.
        output: folder for metrics.json, detections.json and images; None keeps none.
        model: the model to fill, where its backbone or head was a module of your own.

    Raises:
        FileNotFoundError, ValueError: weights or data are not as wanted, or there is no validation set.
    """
    path = local_file(weights)
    config = require_metadata(read_weights(path)).config(str(weights), overrides)
    keys = [key for key in overrides if key.startswith("model.")]
    with tempfile.TemporaryDirectory() as scratch:
        metrics = evaluate_only(config, path, Path(output or scratch), keys, str(weights), model)
    return metrics or {}  # rank 0 has them
