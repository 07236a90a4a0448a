"""What an exported detector says of itself, inside its file: in ONNX's metadata, OpenVINO's runtime information, or an extra
file of torch.export's archive."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from detection.checkpoint.metadata import Classes

KEY = "resdet"  # of the metadata in a file
FORMAT = 1
Target = Literal["onnx", "openvino", "torch-export"]
SUFFIXES: dict[str, Target] = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch-export"}


@dataclass(frozen=True)
class ExportInfo:
    """An exported detector.

    Attributes:
        classes, category_ids: of labels 1..K.
        dtype: of its input, RGB [N, 3, H, W]: uint8, or float32 in 0..1.
        batch: N; None where it is free.
        size: (height, width) of the input; None where they are free. Where N is free or the size is not, the file has a
            second input ``sizes``, int64 [N, 2]: the height and width of each image, padded at the right and the bottom.
        resize: the input is the original image, of any size, which the graph resizes to fit into ``size``.
        short_side, max_side: that images are resized to (:func:`detection.data.transforms.output_size`).
        max_pixels: of the largest image file that is decoded.
        top: detections in the output.
        score_threshold, nms_iou: that the graph holds.
        architecture, backbone, recipe: of the detector.
        config: the configuration that the detector was trained with, as nested dictionaries.
        precision: float32 or int8.
        versions: of the packages that wrote it.
        command: that wrote it.
        parity: how it compared with the detector.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    dtype: str
    batch: int | None
    size: tuple[int, int] | None
    resize: bool
    short_side: int
    max_side: int
    max_pixels: int
    top: int
    score_threshold: float
    nms_iou: float
    architecture: str
    backbone: str
    recipe: str
    config: dict[str, Any]
    precision: str = "float32"
    versions: dict[str, str] = field(default_factory=dict)
    command: str = ""
    parity: dict[str, Any] = field(default_factory=dict)

    @property
    def takes_sizes(self) -> bool:
        """Whether there is an input ``sizes``."""
        return not self.resize and (self.batch is None or self.size is not None)

    @property
    def labels(self) -> Classes:
        """The classes and their category ids."""
        return Classes(self.classes, self.category_ids)

    def to_json(self) -> str:
        """Return the text that a file holds under ``KEY``."""
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)})


def parse_info(text: str | None, where: str | Path) -> ExportInfo:
    """Read a file's entry ``KEY``.

    Raises:
        ValueError: there is none, it is of a newer format, or damaged.
    """
    advice = "export one from best.pth: resdet export best.pth --to … --output FILE"
    if not text:
        raise ValueError(f"{where} is no exported detector of this project (it lacks the metadata {KEY!r}); {advice}")
    try:
        content = json.loads(text)
        number = content.pop("format")
        if number != FORMAT:
            raise ValueError(f"its format is {number!r}, and this version of resdet reads {FORMAT}: update resdet")
        for key in ("classes", "category_ids"):
            content[key] = tuple(content[key])
        content["size"] = tuple(content["size"]) if content["size"] else None
        info = ExportInfo(**content)
        if not info.classes or len(info.classes) != len(info.category_ids):
            raise ValueError(f"{len(info.classes)} classes with {len(info.category_ids)} category ids")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{where}: its metadata {KEY!r} cannot be read ({error}); {advice}") from None
    return info


def target_of(path: str | Path) -> Target | None:
    """Return what a file was exported to, by its suffix; None for a checkpoint."""
    return SUFFIXES.get(Path(path).suffix.lower())
