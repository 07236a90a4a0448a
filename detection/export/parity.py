"""Compare an exported file with the detector that it came from, on images of at least two sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detection.data.synthetic import draw_image, image_name
from detection.data.transforms import resize
from detection.evaluation.visualize import RGBImage
from detection.modeling.structures import Detections

LEAST_IMAGES = 8
BOX_TOLERANCE = 0.01  # pixels of the image as the network sees it
SCORE_TOLERANCE = 1e-4
_SEED = 20_151_210  # of the images drawn where none are given
_NEAR = 1.0  # pixels: boxes farther apart are two detections
_FAR = 1e9  # a cost that no pair has


@dataclass
class Parity:
    """What a comparison found.

    Attributes:
        images: compared.
        sizes: how many different ones.
        detections: of the detector on them.
        box: the largest difference of a box' side, in pixels of the image as the network sees it.
        score: the largest difference of a score.
        faults: what is not equal, as text; empty where the file may be used.
        borderline: detections of one alone that lie within the tolerance of the threshold, or of the last one that is kept.
    """

    images: int = 0
    sizes: int = 0
    detections: int = 0
    box: float = 0.0
    score: float = 0.0
    borderline: int = 0
    faults: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return what the metadata of a file holds."""
        return {name: getattr(self, name) for name in ("images", "sizes", "detections", "box", "score", "borderline")}

    def __str__(self) -> str:
        text = (
            f"{self.detections} detections on {self.images} images of {self.sizes} sizes: boxes within {self.box:.2g} px, "
            f"scores within {self.score:.2g}"
        )
        if self.borderline:
            text += f", {self.borderline} of one alone at the threshold"
        return text + "".join(f"\n  {fault}" for fault in self.faults)


def check_images(short_side: int, max_side: int, within: tuple[int, int] | None = None) -> list[Tensor]:
    """Return images to compare on, uint8 [3, H, W]: seven of drawn shapes and a grey one without objects, in several sizes,
    none of them larger than ``within``."""
    shapes = [draw_image(image_name(_SEED, i)) for i in range(LEAST_IMAGES - 1)]
    factors = (1.0, 0.8, 0.6, 1.0)
    images = []
    for i, image in enumerate([*shapes, np.full_like(shapes[0], 128)]):
        side = max(32, round(short_side * factors[i % len(factors)]))
        images.append(as_seen(image, side, max_side, within))
    return images


def as_seen(image: RGBImage, short_side: int, max_side: int, within: tuple[int, int] | None = None) -> Tensor:
    """Return an RGB image [H, W, 3] resized, as uint8 [3, H, W]."""
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    return resize(tensor, torch.zeros(0, 4), short_side, max_side, within)[0]


def compare(
    detector: Callable[[Sequence[Tensor]], Sequence[Detections]],
    exported: Callable[[Sequence[Tensor]], Sequence[Detections]],
    images: Sequence[Tensor],
    *,
    threshold: float,
    top: int,
    box_tolerance: float = BOX_TOLERANCE,
    score_tolerance: float = SCORE_TOLERANCE,
) -> Parity:
    """Compare the detections of two on images, uint8 [3, H, W], one at a time.

    Args:
        detector, exported: images -> detections, best first.
        images: at least eight of two sizes.
        threshold: of the scores.
        top: detections of an image that count.
        box_tolerance, score_tolerance: larger differences are faults.
    """
    parity = Parity(images=len(images), sizes=len({tuple(image.shape) for image in images}))
    if parity.images < LEAST_IMAGES or parity.sizes < 2:
        parity.faults.append(
            f"wanted at least {LEAST_IMAGES} images of two sizes to compare on, got {parity.images} of {parity.sizes}"
        )
    for i, image in enumerate(images):
        wanted = {key: value[:top] for key, value in detector([image])[0].items()}  # type: ignore[index]
        found = exported([image])[0]
        _compare_one(parity, f"image {i}", wanted, dict(found), (threshold, top, box_tolerance, score_tolerance))
    if not parity.detections:
        parity.faults.append(
            "the detector finds nothing on these images, so nothing was compared: give some of its own by --images FOLDER"
        )
    return parity


def _compare_one(
    parity: Parity, where: str, wanted: dict[str, Any], found: dict[str, Any], limits: tuple[float, int, float, float]
) -> None:
    threshold, top, box_tolerance, score_tolerance = limits
    a, b = ({k: np.asarray(v) for k, v in one.items()} for one in (wanted, found))
    parity.detections += len(a["boxes"])
    if not all(np.isfinite(one[key]).all() for one in (a, b) for key in ("boxes", "scores")):
        parity.faults.append(f"{where}: non-finite boxes or scores")
        return
    # a detection's partner has its label, and the nearest box and score
    distance = np.abs(a["boxes"][:, None].astype(np.float64) - b["boxes"][None]).max(-1, initial=0.0)
    score = np.abs(a["scores"][:, None].astype(np.float64) - b["scores"][None])
    strangers = (a["labels"][:, None] != b["labels"][None]) | (distance > _NEAR)
    cost = distance / box_tolerance + score / score_tolerance + strangers * _FAR
    pairs, alone_a, alone_b = _pairs(cost)
    # what one of the two lacks may be a matter of rounding: at the threshold, or the last of those that are kept
    edge = {threshold} | {float(one["scores"][-1]) for one in (a, b) if len(one["scores"]) == top}
    for one, alone, name in ((a, alone_a, "the file lacks"), (b, alone_b, "the file alone has")):
        for k in alone:
            if min(abs(float(one["scores"][k]) - value) for value in edge) <= score_tolerance:
                parity.borderline += 1
            else:
                parity.faults.append(
                    f"{where}: {name} label {one['labels'][k]} at {np.round(one['boxes'][k], 2).tolist()}, "
                    f"score {one['scores'][k]:.5f}"
                )
    for i, j in pairs:
        parity.box, parity.score = max(parity.box, float(distance[i, j])), max(parity.score, float(score[i, j]))
        if distance[i, j] > box_tolerance or score[i, j] > score_tolerance:
            parity.faults.append(
                f"{where}: label {a['labels'][i]}: boxes differ by {distance[i, j]:.4g} px, scores by {score[i, j]:.2g}"
            )


def _pairs(cost: Any) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Pair rows and columns by increasing cost; return the pairs, and the rows and columns that are left."""
    pairs: list[tuple[int, int]] = []
    rows, columns = set(range(cost.shape[0])), set(range(cost.shape[1]))
    for flat in np.argsort(cost, axis=None, kind="stable").tolist():
        i, j = divmod(flat, cost.shape[1])
        if cost[i, j] >= _FAR:
            break
        if i in rows and j in columns:
            pairs.append((i, j))
            rows.discard(i)
            columns.discard(j)
    return pairs, sorted(rows), sorted(columns)
