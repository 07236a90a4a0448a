"""The schema of a classifier's experiment; a detector's is detection/config.py, whose solver it shares."""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from detection.config import Fraction, Name, SolverConfig


@dataclass(frozen=True)
class NetworkConfig:
    """The network.

    Attributes:
        name: resnet18, resnet50, plain34, cifar_resnet20, … (``resdet inspect --help`` lists them).
        width: channels of conv1 and the first stage, each later stage has twice its predecessor's; null takes the
            network's own (64, CIFAR-10's nets 16).
        norm: of all layers.
        shortcut: A, B or C of the paper, none for a plain net; null takes the network's own.
        recipe: how it takes its pictures, where bottlenecks stride and how the stem pools.
        zero_init_residual: every block begins as its shortcut.
        init_from: a file of weights to begin with.
    """

    name: str = "resnet50"
    width: PositiveInt | None = None
    norm: Literal["bn", "sync_bn", "gn"] = "bn"
    shortcut: Literal["A", "B", "C", "none"] | None = None
    recipe: str = "torchvision"
    zero_init_residual: bool = False
    init_from: str | None = None


@dataclass(frozen=True)
class PicturesConfig:
    """Pictures with a class each, and what happens to them.

    Attributes:
        format: folders (ROOT/train/CLASS/picture, as ImageNet comes), cifar10 (its binary files), or shapes (drawn).
        root: folder of the data set.
        train: folders: a folder in root. shapes: a number of pictures. cifar10: its five batches whatever this says.
        val: likewise; null evaluates nothing.
        crop: side in pixels of what the network sees.
        short_side: a picture's short side in training is drawn from this range (low, high); null leaves its size.
        eval_short_side: in evaluation, before the crop from the middle; null leaves the picture's size.
        pad: zeros around a picture before its crop in training (CIFAR-10: 4).
        flip: probability of a mirrored picture in training.
        jitter: largest change of brightness, contrast and saturation in training.
        lighting: deviation of the colour shift along the principal axes of ImageNet's colours in training (AlexNet's; 0.1
            in the papers).
        workers: loading processes.
        seed: of the drawn set, whose pictures are drawn at the start and kept in memory.
    """

    format: Literal["folders", "cifar10", "shapes"] = "folders"
    root: str = "datasets/imagenet"
    train: Name = "train"
    val: Name | None = "val"
    crop: PositiveInt = 224
    short_side: tuple[PositiveInt, PositiveInt] | None = (256, 480)
    eval_short_side: PositiveInt | None = 256
    pad: NonNegativeInt = 0
    flip: Fraction = 0.5
    jitter: NonNegativeFloat = 0.0
    lighting: NonNegativeFloat = 0.0
    workers: NonNegativeInt = 4
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier's experiment.

    Attributes:
        expects: the result that this configuration should give, and that result's source; for readers.
        seed: of weights, order and augmentation.
        label_smoothing: share of the target that all classes have.
        mixup, cutmix: alpha of the Beta distribution by which pictures of a batch are mixed, or patches exchanged; 0 does
            not; with both, a step has one or the other.
        statistics_images: training pictures over which an evaluation measures the norms anew for the weights as they are,
            before it judges and keeps them; 0 leaves the running averages.
        network: what is trained.
        data: on what.
        solver: how; as a detector's.
    """

    expects: str = ""
    seed: NonNegativeInt = 0
    label_smoothing: Fraction = 0.0
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    statistics_images: NonNegativeInt = 10000
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: PicturesConfig = field(default_factory=PicturesConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)

    def __post_init__(self) -> None:
        if self.solver.schedule == "plateau" and self.data.val is None:
            raise ValueError("solver.schedule=plateau looks at evaluations, and data.val is null")
