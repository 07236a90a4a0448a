"""Configuration schema of a classifier; its solver is the detector's of detection/config."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import StrictBool

from detection.config import Fraction, Name, NonNegativeFloat, NonNegativeInt, PositiveInt, SolverConfig
from detection.config.schema import SOLVER_NAMES


@dataclass(frozen=True)
class NetworkConfig:
    """The network.

    Attributes:
        name: resnet18, resnet50, plain34, cifar_resnet20, … (``resdet inspect --help`` lists them).
        width: channels of conv1 and the first stage, doubled in each later stage; null takes the network's default (64,
            for CIFAR-10 networks 16).
        norm: normalisation layer.
        shortcut: A, B or C of the paper, none for a plain network; null takes the network's default.
        recipe: image normalisation, stride position of bottlenecks and stem pooling.
        zero_init_residual: initialise the last norm of each residual branch to zero.
        init_from: file of initial weights.
    """

    name: str = "resnet50"
    width: PositiveInt | None = None
    norm: Literal["bn", "sync_bn", "gn"] = "bn"
    shortcut: Literal["A", "B", "C", "none"] | None = None
    recipe: str = "torchvision"
    zero_init_residual: StrictBool = False
    init_from: str | None = None


@dataclass(frozen=True)
class ImageDataConfig:
    """A dataset of labelled images, and its augmentation.

    Attributes:
        format: folders (ROOT/train/CLASS/image, as ImageNet), cifar10 (binary version), or shapes (synthetic).
        root: folder of the dataset.
        train: folders: a folder in root. shapes: a number of images. cifar10: ignored, its five training batches are used.
        val: likewise; null disables evaluation.
        crop: side of the network's input in pixels.
        short_side: range (low, high) of the random short side in training; null does not resize.
        eval_short_side: short side in evaluation, before the centre crop; null does not resize.
        pad: zero padding before the random crop in training (CIFAR-10: 4).
        flip: probability of a horizontal flip in training.
        jitter: maximum change of brightness, contrast and saturation in training.
        lighting: standard deviation of the PCA colour augmentation in training (AlexNet's; 0.1 in the papers).
        workers: DataLoader workers.
        seed: of the synthetic dataset, which is generated at the start and held in memory.
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
    """A classifier's training.

    Attributes:
        expects: expected result of this configuration and its source; for readers.
        seed: of weights, shuffling and augmentation.
        label_smoothing: fraction of the target that is spread uniformly over all classes.
        mixup, cutmix: alpha of the Beta distribution of mixup and cutmix; 0 disables; with both, each step uses one of them.
        statistics_images: training images for recomputing the batch norm statistics before each evaluation (precise BN);
            0 uses the running averages.
        network: the network.
        data: the dataset.
        solver: as a detector's.
    """

    other_names: ClassVar[dict[str, str]] = {
        **SOLVER_NAMES,
        **dict.fromkeys(("num_classes", "nc"), "the classes are those of the training images"),
        **dict.fromkeys(("depth", "layers", "backbone"), "network.name names the network, such as resnet50"),
        **dict.fromkeys(("pretrained", "weights"), "network.init_from names the file of initial weights"),
    }

    expects: str = ""
    seed: NonNegativeInt = 0
    label_smoothing: Fraction = 0.0
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    statistics_images: NonNegativeInt = 10000
    network: NetworkConfig = field(default_factory=NetworkConfig)
    data: ImageDataConfig = field(default_factory=ImageDataConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)

    def __post_init__(self) -> None:
        if self.solver.schedule == "plateau" and self.data.val is None:
            raise ValueError("solver.schedule=plateau needs evaluations, but data.val is null")
