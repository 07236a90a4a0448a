"""The configuration of an experiment: typed, frozen, documented.

The defaults are today's Faster R-CNN R101-C4 (detectron2's); where the papers differ, the docstring gives their value. What
a constructor of the model takes has its default and its documentation there alone.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool

from backbone import RECIPES
from backbone.adapters.foreign import SCHEME, is_foreign
from backbone.blocks import StrideIn
from backbone.norm import NormName
from backbone.recipe import StemPool
from backbone.resnet import RESIDUAL_NAMES
from detection.modeling.anchors import make_anchors
from detection.modeling.at_test_time import AtTestTime
from detection.modeling.faster_rcnn import keyword_defaults
from detection.modeling.roi_head import RoIHead, TwoLayerHead
from detection.modeling.roi_pooler import RoIPooler
from detection.modeling.rpn import RPN


def _number(value: Any) -> Any:
    """Refuse what pydantic would convert: true is no 1, and the text "5" no 5."""
    if isinstance(value, bool):
        raise ValueError("should be a number")
    if isinstance(value, str) and _is_number(value):
        raise ValueError("should be a number, without quotes")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _text(value: Any) -> str:
    return f"[{', '.join(f'{v:g}' for v in value)}]" if isinstance(value, tuple) else f"{value:g}"


def _several(value: Any) -> Any:
    """Take data.short_side=128 as [128]."""
    return (value,) if isinstance(value, int | float | str) else value


_Number = BeforeValidator(_number)
PositiveInt = Annotated[int, Field(gt=0), _Number]
NonNegativeInt = Annotated[int, Field(ge=0), _Number]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), _Number]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), _Number]
Fraction = Annotated[float, Field(ge=0, le=1), _Number]
Several = BeforeValidator(_several)
# from YAML a name is the text as typed (loading.py); a Python dictionary may have 2007
Name = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]
# "auto" is kept as nothing, until a run knows its data (training/auto.py)
AutoSteps = Annotated[NonNegativeInt, BeforeValidator(lambda value: 0 if value == "auto" else value)]
AutoSizes = Annotated[
    tuple[PositiveFloat, ...], Several, BeforeValidator(lambda value: () if value == "auto" else value)
]


def _backbone(name: str) -> str:
    if name in RESIDUAL_NAMES or (is_foreign(name) and name != SCHEME):
        return name
    raise ValueError(f"should be {', '.join(RESIDUAL_NAMES)}, or {SCHEME}NAME")


def _recipe(name: str) -> str:
    if name in RECIPES:
        return name
    raise ValueError(f"should be one of {', '.join(RECIPES)}")


def _class_weights(value: Any) -> Any:
    if value is None or value == "balanced":
        return value
    numbers = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if not numbers or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf for v in numbers
    ):
        raise ValueError(
            "should be {name: factor}, a list of factors of 0 and more (the background's first), balanced or null"
        )
    if isinstance(value, dict):
        return {str(name): float(v) for name, v in value.items()}
    return tuple(float(v) for v in numbers)


ClassWeights = Annotated[Any, BeforeValidator(_class_weights)]
BackboneName = Annotated[str, AfterValidator(_backbone)]
RecipeName = Annotated[str, AfterValidator(_recipe)]


# what other projects call a setting, by the last part of its key, and the key that does its job here
SOLVER_NAMES = {
    **dict.fromkeys(
        ("epochs", "num_epochs", "epoch"),
        "solver.max_epochs sets the length in epochs, solver.max_iter in steps",
    ),
    **dict.fromkeys(
        ("lr", "learning_rate", "lr0"), "solver.base_lr is the rate for solver.reference_batch images a step"
    ),
    **dict.fromkeys(("num_workers", "workers_per_gpu"), "data.workers is their number"),
    **dict.fromkeys(("image_size", "img_size", "imgsz", "input_size"), "data.short_side sets the size"),
    **dict.fromkeys(("amp", "fp16", "half", "mixed_precision"), "solver.precision sets it"),
}


def default(constructor: Any, keyword: str) -> Any:
    """Return the default that a constructor gives a keyword."""
    return keyword_defaults(constructor)[keyword]


@dataclass(frozen=True)
class AnchorConfig:
    """Anchors (Faster R-CNN, section 3.1.1).

    Attributes:
        sizes: square roots of the areas, in pixels (VOC paper: 128, 256, 512; COCO paper: also 64); fpn: one a level. auto,
            or none: the usual ones, or where that matches more of the training boxes five spread over theirs; a run
            replaces it by numbers before it builds the detector.
        aspect_ratios: height / width.
        offset: position of the first anchor's centre, in strides.
        rounded: corners on whole pixels, and positions as far apart as the image's side over the map's, rounded down, as
            torchvision's.
    """

    sizes: AutoSizes = default(make_anchors, "sizes")
    aspect_ratios: Annotated[tuple[PositiveFloat, ...], Several] = default(make_anchors, "aspect_ratios")
    offset: NonNegativeFloat = default(make_anchors, "offset")
    rounded: StrictBool = default(make_anchors, "rounded")


@dataclass(frozen=True)
class RPNConfig:
    """Region proposal network; fields as the keywords of :class:`detection.modeling.rpn.RPN`."""

    documented_by: ClassVar = (RPN,)

    channels: PositiveInt | None = default(RPN, "channels")
    foreground_iou: Fraction = default(RPN, "foreground_iou")
    background_iou: Fraction = default(RPN, "background_iou")
    batch_per_image: PositiveInt = default(RPN, "batch_per_image")
    foreground_fraction: Fraction = default(RPN, "foreground_fraction")
    ignore_cross_boundary: StrictBool = default(RPN, "ignore_cross_boundary")
    before_nms_train: PositiveInt = default(RPN, "before_nms_train")
    after_nms_train: PositiveInt = default(RPN, "after_nms_train")
    before_nms_test: PositiveInt = default(RPN, "before_nms_test")
    after_nms_test: PositiveInt = default(RPN, "after_nms_test")
    nms_iou: Fraction = default(RPN, "nms_iou")
    min_size: NonNegativeFloat = default(RPN, "min_size")
    beta: NonNegativeFloat = default(RPN, "beta")
    box_loss_weight: NonNegativeFloat = default(RPN, "box_loss_weight")


@dataclass(frozen=True)
class RoIConfig:
    """RoI pooling, the head and its detections; fields as the keywords of ``RoIPooler``, ``TwoLayerHead`` and ``RoIHead``.

    Attributes:
        class_start: where a new class layer's biases start: zero (detectron2, the papers), or frequencies, the logarithms
            of how often a sampled region is background or an object of each class.
        class_weights: factors on the classification loss: {name: factor}, where "background" is a name and others have 1; a
            list in the order of the labels, the background's first; balanced, which gives a class with n of the M objects
            and K classes M / (K n) (King and Zeng, 2001, as scikit-learn) and the background 1; null has none. A run
            replaces them by the list. The loss stays a mean over the sampled regions.
    """

    documented_by: ClassVar = (RoIPooler, TwoLayerHead, RoIHead)

    pool: Literal["align", "max"] = default(RoIPooler, "pool")
    resolution: PositiveInt = default(RoIPooler, "resolution")
    fc_channels: PositiveInt = default(TwoLayerHead, "fc_channels")
    sampling_ratio: NonNegativeInt = default(RoIPooler, "sampling_ratio")
    aligned: StrictBool = default(RoIPooler, "aligned")
    foreground_iou: Fraction = default(RoIHead, "foreground_iou")
    background_iou: Fraction = default(RoIHead, "background_iou")
    background_iou_low: Fraction = default(RoIHead, "background_iou_low")
    batch_per_image: PositiveInt = default(RoIHead, "batch_per_image")
    foreground_fraction: Fraction = default(RoIHead, "foreground_fraction")
    append_truth: StrictBool = default(RoIHead, "append_truth")
    class_start: Literal["zero", "frequencies"] = "zero"
    box_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = default(RoIHead, "box_weights")
    beta: NonNegativeFloat = default(RoIHead, "beta")
    box_loss_weight: NonNegativeFloat = default(RoIHead, "box_loss_weight")
    class_weights: ClassWeights = None
    focal_gamma: NonNegativeFloat = default(RoIHead, "focal_gamma")
    score_threshold: Fraction = default(RoIHead, "score_threshold")
    nms: Literal["hard", "soft_linear", "soft_gaussian"] = default(RoIHead, "nms")
    class_agnostic_nms: StrictBool = default(RoIHead, "class_agnostic_nms")
    nms_iou: Fraction = default(RoIHead, "nms_iou")
    nms_sigma: PositiveFloat = default(RoIHead, "nms_sigma")
    max_detections: PositiveInt = default(RoIHead, "max_detections")
    min_size: NonNegativeFloat = default(RoIHead, "min_size")
    context: StrictBool = default(RoIHead, "context")


@dataclass(frozen=True)
class ModelConfig:
    """The detector.

    Attributes:
        architecture: c4 (conv5_x is the head of every region), dc5 (conv5_x dilated in the trunk, a head of two layers), or
            fpn (a feature pyramid, a head of two layers).
        backbone: a network of backbone/, or timm://NAME: of timm a ResNet for c4, any network with feature maps for fpn, and
            for c4 and dc5 one map of it with a head of two layers.
        weights: where training starts: a file, torchvision://NAME, detectron2://PATH, timm://NAME (for a timm backbone), or
            null for random weights.
        recipe: how those weights expect images and network: torchvision, msra, detectron2 or v1_rgb; a timm:// backbone has
            its own.
        norm: of the whole network; frozen_bn needs weights.
        conv5_norm: of conv5_x alone; null as norm.
        stride_in: where a bottleneck strides; null as the recipe says.
        stem_pool: padding of the stem's pooling; null as the recipe says.
        in_channels: of the images: 1 (grey), 3 (RGB), or what the files have, such as 4 (RGBA). conv1's pretrained weights
            are summed for 1, and repeated and rescaled for more (as timm's).
        freeze_at: 1 freezes conv1, 2 also conv2_x (the papers and detectron2), 0 nothing.
        fpn_channels: of a pyramid's levels.
        anchors: see there.
        rpn: see there.
        roi: see there.
        padded: proposals and detections have a fixed number of slots, so that nothing waits for a GPU; null pads everywhere
            but on a CPU. Results are the same.
    """

    architecture: Literal["c4", "dc5", "fpn"] = "c4"
    backbone: BackboneName = "resnet101"
    weights: str | None = None
    recipe: RecipeName = "torchvision"
    norm: NormName = "frozen_bn"
    conv5_norm: NormName | None = None
    stride_in: StrideIn | None = None
    stem_pool: StemPool | None = None
    in_channels: PositiveInt = 3
    freeze_at: Annotated[Literal[0, 1, 2, 3, 4, 5], _Number] = 2
    fpn_channels: PositiveInt = 256
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)
    padded: StrictBool | None = None


@dataclass(frozen=True)
class DataConfig:
    """The data, and what happens to an image before the model.

    Attributes:
        format: coco (JSON), voc (XML folders), shapes (a synthetic dataset, needs no files), or a registered one
            (detection.data.register_format).
        root: folder of the data set.
        train: what to train on. coco: a split such as train2017, or a JSON's path under root. voc: an image set such as
            trainval, or VOC2007/trainval+VOC2012/trainval. shapes: a number of images.
        val: what to evaluate on, likewise; null evaluates nothing. 0.2 takes a fifth of data.train's images (by class,
            images that look the same on one side, the same ones for the same data.seed), split:0.1:0.1 a tenth and leaves
            another for a test; split:FILE.json repeats the split of a run's split.json, split:test evaluates the test
            images.
        limit: train and evaluate on at most so many images each, for a quick try; null on all.
        short_side: in pixels; several are drawn from in training, the last one is used in testing.
        max_side: a longer side is scaled down to this (the papers: 1000).
        flip: probability of a horizontal flip in training.
        augment: transforms of albumentations and of torchvision v2 for training, in their order, each {name: {argument:
            value}}. A name that both libraries have is written albumentations.NAME or torchvision.NAME, as any may be.
        large_scale_jitter: in place of short_side in training: the smallest and the largest multiple of jitter_side that an
            image is resized to fit, such as [0.1, 2.0], before a window of jitter_side is cut out or padded (Ghiasi et al.,
            2021; detectron2's ResizeScale and FixedSizeCrop). Of a box a tenth of its area must be left.
        jitter_side: see there.
        mosaic: probability of a mosaic of four images in training (YOLOv4; the canvas as YOLOX), at the scales 0.5 to 1.5.
        mixup: probability that a second image is mixed in, half and half, with its boxes (YOLOX).
        keep_empty: train on images without objects too (detectron2 drops them).
        keep_difficult: train on VOC's difficult objects too (the papers do not).
        repeat_threshold: images with classes that are on a smaller fraction of the images than this come more often,
            sqrt(repeat_threshold / fraction) times an epoch (repeat-factor sampling, Gupta et al., LVIS, 2019, section 4.1,
            which takes 0.001); 0 repeats none.
        group_by_aspect: batches hold only wide or only tall images, which saves padding.
        cache: ram decodes all images once, before the first step, and keeps them, where they fit into memory; forked workers
            share them. none decodes an image each time.
        workers: DataLoader workers; 0 loads in the training process.
        timeout: seconds without a batch from a DataLoader worker after which the run ends.
        max_pixels: height times width of the largest image that is decoded; more may be a decompression bomb. Satellite
            images may need more (Pillow's bound is the default).
        seed: of the synthetic dataset, of a split and of data.limit.
    """

    format: str = "coco"
    root: str = "datasets/coco"
    train: Name = "train2017"
    val: Name | None = "val2017"
    limit: PositiveInt | None = None
    short_side: Annotated[tuple[PositiveInt, ...], Several] = (640, 672, 704, 736, 768, 800)
    max_side: PositiveInt = 1333
    flip: Fraction = 0.5
    augment: tuple[dict[str, dict[str, Any]], ...] = ()
    large_scale_jitter: tuple[PositiveFloat, PositiveFloat] | None = None
    jitter_side: PositiveInt = 1024
    mosaic: Fraction = 0.0
    mixup: Fraction = 0.0
    keep_empty: StrictBool = False
    keep_difficult: StrictBool = False
    repeat_threshold: Fraction = 0.0
    group_by_aspect: StrictBool = True
    cache: Literal["none", "ram"] = "none"
    workers: NonNegativeInt = 4
    timeout: PositiveInt = 600
    max_pixels: PositiveInt = 89_478_485
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if self.large_scale_jitter and self.large_scale_jitter[0] > self.large_scale_jitter[1]:
            raise ValueError(
                f"data.large_scale_jitter={_text(self.large_scale_jitter)}: the smallest scale comes first"
            )


@dataclass(frozen=True)
class SolverConfig:
    """Optimisation, evaluation and logging.

    Attributes:
        either: pairs of keys of which one is given.
        optimizer: sgd or adamw.
        base_lr: learning rate for reference_batch images a step.
        reference_batch: see base_lr (detectors: 16; classifiers: 256).
        lr_scaling: how the rate follows batch_size: linear (Goyal et al., 2017, for SGD), sqrt (Malladi et al., 2022, for
            AdamW), or none.
        trunk_lr_factor: the trunk's learning rate is that of the other layers times this (DETR: 0.1): pretrained features
            then drift slowly while new layers learn fast. A pyramid's own layers, and conv5_x as a head, are other layers.
        momentum: of SGD.
        weight_decay: on weights; norms and biases have none where norm_decay is false.
        norm_decay: decay norms and biases too.
        batch_size: images a step, over all processes and micro-batches.
        accumulate: micro-batches of a step, computed one after the other (gradient accumulation).
        max_iter: steps. auto, or 0: from the number of training images, 12 epochs but 1000 steps at least.
        max_epochs: the length in epochs (times each training image is seen, repeats not counted) in place of max_iter; a
            run replaces it by steps, max_epochs x images / batch_size, before it begins. Of the two the one given later
            counts: a command line's before a file's, a file's before its base's.
        steps_epochs: in place of steps, in epochs.
        warmup_epochs: in place of warmup, in epochs.
        schedule: step (changed at steps), cosine, or plateau (changed when evaluations bring nothing better).
        steps: where the rate is multiplied by gamma; below 1 a fraction of max_iter.
        gamma: see steps.
        patience: plateau: evaluations without a better one before the rate is multiplied by gamma.
        warmup: steps of linear warm-up; below 1 a fraction of max_iter.
        warmup_factor: fraction of the learning rate that warm-up starts at.
        clip_norm: the gradient's norm is limited to this; null does not.
        precision: float32; bf16 or fp16 (autocast; boxes and losses stay in float32; fp16 with a gradient scaler); or auto:
            bf16 where the device multiplies it natively, else fp16 on a GPU, else float32.
        checkpoint_trunk: the trunk's residual blocks keep their inputs alone, and are computed again in the backward pass
            (gradient checkpointing, Chen et al., 2016): less memory for more time, the same gradients.
        compile: compile the trunk, the RPN and the head by torch.compile: for GPUs (on a CPU measured to gain nothing in
            float32, and 5 % in bf16, for half a minute at the start).
        cuda_graphs: evaluations replay a recording for image sizes that come more than once: for GPUs, where images are of
            few sizes.
        ema: decay of a moving average of the weights, which is then what is evaluated and saved as best; null has none.
        eval_every: steps between evaluations; below 1 a fraction of max_iter; 0 only at the end.
        val_loss: also compute the losses over the validation images at an evaluation.
        checkpoint_every: steps between checkpoints; below 1 a fraction of max_iter.
        not_finite: what happens on a non-finite loss: stop (training ends, and the step is saved to not_finite.pth for
            resdet replay), skip (the step changes no weights, and is counted in the log), or recover (back to the
            last good state at half the learning rate, three times at most).
        early_stop: stop after this many evaluations without a better AP; null does not.
        log_every: steps between lines of metrics.csv and metrics.jsonl.
        loggers: of Lightning, which get the same lines: tensorboard, wandb, mlflow, each an extra of that name.
    """

    either: ClassVar = (("max_iter", "max_epochs"), ("steps", "steps_epochs"), ("warmup", "warmup_epochs"))

    optimizer: Literal["sgd", "adamw"] = "sgd"
    base_lr: PositiveFloat = 0.02
    reference_batch: PositiveInt = 16
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    trunk_lr_factor: PositiveFloat = 1.0
    momentum: Fraction = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    norm_decay: StrictBool = True
    batch_size: PositiveInt = 16
    accumulate: PositiveInt = 1
    max_iter: AutoSteps = 270000
    max_epochs: PositiveFloat | None = None
    steps_epochs: Annotated[tuple[PositiveFloat, ...], Several] = ()
    warmup_epochs: NonNegativeFloat | None = None
    schedule: Literal["step", "cosine", "plateau"] = "step"
    steps: Annotated[tuple[PositiveFloat, ...], Several] = (210000, 250000)
    gamma: Fraction = 0.1
    patience: PositiveInt = 3
    warmup: NonNegativeFloat = 1000
    warmup_factor: Fraction = 0.001
    clip_norm: PositiveFloat | None = None
    precision: Literal["float32", "bf16", "fp16", "auto"] = "float32"
    checkpoint_trunk: StrictBool = False
    compile: StrictBool = False
    cuda_graphs: StrictBool = False
    ema: Fraction | None = None
    eval_every: NonNegativeFloat = 0
    val_loss: StrictBool = False
    checkpoint_every: PositiveFloat = 5000
    not_finite: Literal["stop", "skip", "recover"] = "stop"
    early_stop: PositiveInt | None = None
    log_every: PositiveInt = 20
    loggers: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], Several] = ()

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"solver.batch_size={self.batch_size} must be a multiple of solver.accumulate={self.accumulate}"
            )
        if self.schedule == "plateau" and not self.eval_every:
            raise ValueError("solver.schedule=plateau follows evaluations: set solver.eval_every")
        if self.compile and self.checkpoint_trunk:
            raise ValueError(
                "solver.compile and solver.checkpoint_trunk cannot be used together: set one of them to false"
            )
        usual = {f.name: f.default for f in fields(self)}
        for steps, epochs in self.either:
            in_steps, in_epochs = getattr(self, steps), getattr(self, epochs)
            if in_epochs in (None, ()):
                continue
            if in_steps not in (usual[steps], 0):
                raise ValueError(
                    f"solver.{steps}={_text(in_steps)} and solver.{epochs}={_text(in_epochs)} set the same: give one of them"
                )
            if steps == "max_iter":
                object.__setattr__(self, steps, 0)  # as auto: no number before the data are known


@dataclass(frozen=True)
class TestConfig:
    """What is added when a detector is tested (ResNet paper, appendix B): in evaluation and prediction, never in training;
    fields as the keywords of :class:`detection.modeling.at_test_time.AtTestTime`.

    Attributes:
        scales: short sides, in pixels, of the images that regions are pooled from (the paper: 200, 400, 600, 800, 1000);
            the longer sides are limited as data.max_side limits those of data.short_side, at which alone proposals are made.
            None of them tests at data.short_side.
    """

    __test__: ClassVar = False  # pytest: no class of tests
    documented_by: ClassVar = (AtTestTime,)

    refine: Literal["none", "best", "all"] = default(AtTestTime, "refine")
    vote: StrictBool = default(AtTestTime, "vote")
    scales: Annotated[tuple[PositiveInt, ...], Several] = ()
    merge: Literal["features", "conv5", "pooled", "union"] = default(AtTestTime, "merge")
    flip: StrictBool = default(AtTestTime, "flip")
    nms_iou: Fraction | None = default(AtTestTime, "nms_iou")


@dataclass(frozen=True)
class PretrainConfig:
    """Training on mosaics of synthetic crops, one object each, before the images (shapes only).

    Attributes:
        iterations: steps; 0 has none.
        batch_size: mosaics a step.
        mosaic: their side in pixels, about: as many crops as come nearest.
        sizes: sides of the crops in pixels, smallest first. Not multiples of the stride, so that objects lie at every
            offset from its grid.
        crops: how many of the smallest are made; each is used rotated, flipped and in other colours.
        lr: largest learning rate of a one-cycle schedule.
        rois: sampled a mosaic for the RoI head (in place of model.roi.batch_per_image).
        foreground_fraction: of them. Mostly objects: which class is harder to learn than where.
        box_loss_weight: of the RoI head, for the same reason below 1.
    """

    iterations: NonNegativeInt = 0
    batch_size: PositiveInt = 2
    mosaic: PositiveInt = 256
    sizes: Annotated[tuple[PositiveInt, ...], Several] = (36, 68, 132)
    crops: PositiveInt = 6000
    lr: PositiveFloat = 0.002
    rois: PositiveInt = 80
    foreground_fraction: Fraction = 0.7
    box_loss_weight: NonNegativeFloat = 0.25


@dataclass(frozen=True)
class Config:
    """An experiment.

    Attributes:
        expects: the result that this configuration should give, and its source.
        seed: of weights, order, augmentation and sampling.
        deterministic: refuse operations whose result differs from run to run on a GPU (slower); a CPU repeats itself anyway.
        model: the detector.
        data: images and boxes.
        solver: optimisation.
        pretrain: on synthetic crops.
        test: refinement, voting, scales.
    """

    other_names: ClassVar[dict[str, str]] = {
        **SOLVER_NAMES,
        **dict.fromkeys(
            ("num_classes", "classes", "nc"), "the classes are those of the annotations that data.train names"
        ),
        **dict.fromkeys(("depth", "layers"), "model.backbone names the network, such as resnet50"),
        **dict.fromkeys(("pretrained", "init_from"), "model.weights names the file, or torchvision://resnet50"),
    }

    expects: str = ""
    seed: NonNegativeInt = 0
    deterministic: StrictBool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    test: TestConfig = field(default_factory=TestConfig)

    def __post_init__(self) -> None:
        if self.solver.schedule == "plateau" and self.data.val is None:
            raise ValueError("solver.schedule=plateau follows evaluations, and data.val is null")
        if self.model.in_channels != 3 and (self.pretrain.iterations or self.data.format == "shapes"):
            raise ValueError(
                f"model.in_channels={self.model.in_channels}, and the synthetic shapes are RGB (data.format=shapes, "
                "pretrain.iterations)"
            )
        if not self.data.short_side:
            raise ValueError("data.short_side must name at least one size")
