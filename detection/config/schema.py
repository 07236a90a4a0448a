"""The configuration of an experiment: typed, frozen, documented, and the only place with defaults.

The defaults are today's Faster R-CNN R101-C4 (detectron2's); where the papers differ, the docstring gives their value.
Reading them from files is config_io's.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Share = Annotated[float, Field(ge=0, le=1)]
# YAML reads data.train=2007 as a number
Name = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
# "auto" is kept as nothing, until a run knows its data (engine/auto.py)
AutoSteps = Annotated[NonNegativeInt, BeforeValidator(lambda value: 0 if value == "auto" else value)]
AutoSizes = Annotated[tuple[PositiveFloat, ...], BeforeValidator(lambda value: () if value == "auto" else value)]

BackboneName = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
NormName = Literal["bn", "frozen_bn", "sync_bn", "gn", "none"]


@dataclass(frozen=True)
class AnchorConfig:
    """Anchors (Faster R-CNN, section 3.1.1).

    Attributes:
        sizes: square roots of the areas, in pixels (VOC paper: 128, 256, 512; COCO paper: also 64); fpn: one a level. auto,
            or none: the usual ones, or where that matches more of the training boxes five spread over theirs; a run
            replaces it by numbers before it builds the detector.
        aspect_ratios: height / width.
        offset: position of the first anchor's centre, in strides.
    """

    sizes: AutoSizes = (32, 64, 128, 256, 512)
    aspect_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    offset: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class RPNConfig:
    """Region proposal network.

    Attributes:
        channels: of the 3x3 convolution; null as the map has (detectron2), 512 in py-faster-rcnn.
        foreground_iou: anchors at this IoU and above are objects.
        background_iou: anchors below this IoU are background.
        batch_per_image: anchors sampled an image.
        foreground_fraction: at most this share of them is foreground.
        ignore_cross_boundary: anchors across the image's edge take no part in training (the paper: true).
        before_nms_train: best anchors decoded in training (the paper: 12000 of py-faster-rcnn); fpn: of each level.
        after_nms_train: proposals kept in training.
        before_nms_test: best anchors decoded in testing; fpn: of each level.
        after_nms_test: proposals kept in testing (the paper: 300).
        nms_iou: overlap above which the worse proposal is dropped.
        min_size: shortest side of a proposal, in pixels (py-faster-rcnn: 16).
        beta: of smooth L1; 0 is L1 (py-faster-rcnn: 1/9).
        box_loss_weight: on the box loss.
    """

    channels: PositiveInt | None = None
    foreground_iou: Share = 0.7
    background_iou: Share = 0.3
    batch_per_image: PositiveInt = 256
    foreground_fraction: Share = 0.5
    ignore_cross_boundary: bool = False
    before_nms_train: PositiveInt = 12000
    after_nms_train: PositiveInt = 2000
    before_nms_test: PositiveInt = 6000
    after_nms_test: PositiveInt = 1000
    nms_iou: Share = 0.7
    min_size: NonNegativeFloat = 0.0
    beta: NonNegativeFloat = 0.0
    box_loss_weight: NonNegativeFloat = 1.0


@dataclass(frozen=True)
class RoIConfig:
    """RoI pooling, the head and its detections.

    Attributes:
        pool: "align" (Mask R-CNN) or "max" (the papers).
        resolution: bins a side (14, which conv5_x halves; 7 for dc5 and fpn).
        fc_channels: of the two layers that are the head of dc5 and fpn.
        sampling_ratio: points a bin side of RoIAlign; 0 adapts to the region.
        aligned: RoIAlign's half-pixel shift (detectron2: true; torchvision: false).
        foreground_iou: regions at this IoU and above are objects.
        background_iou: regions below it are background.
        background_iou_low: regions below this are ignored (the paper: 0.1).
        batch_per_image: regions sampled an image (the paper: 64 on VOC with two images, 128 in all).
        foreground_fraction: at most this share of them is foreground.
        append_truth: ground truth joins the proposals in training.
        class_start: where a new class layer's biases start: zero (detectron2, the papers), or frequencies, the logarithms
            of how often a sampled region is background or an object of each class.
        box_weights: on the offsets x, y, w, h.
        beta: of smooth L1; 0 is L1 (the paper: 1).
        box_loss_weight: on the box loss.
        score_threshold: detections need a higher score.
        nms_iou: overlap above which the worse detection of a class is dropped (py-faster-rcnn: 0.3).
        max_detections: kept an image.
    """

    pool: Literal["align", "max"] = "align"
    resolution: PositiveInt = 14
    fc_channels: PositiveInt = 1024
    sampling_ratio: NonNegativeInt = 0
    aligned: bool = True
    foreground_iou: Share = 0.5
    background_iou: Share = 0.5
    background_iou_low: Share = 0.0
    batch_per_image: PositiveInt = 512
    foreground_fraction: Share = 0.25
    append_truth: bool = True
    class_start: Literal["zero", "frequencies"] = "zero"
    box_weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat] = (10.0, 10.0, 5.0, 5.0)
    beta: NonNegativeFloat = 0.0
    box_loss_weight: NonNegativeFloat = 1.0
    score_threshold: Share = 0.05
    nms_iou: Share = 0.5
    max_detections: PositiveInt = 100


@dataclass(frozen=True)
class ModelConfig:
    """The detector.

    Attributes:
        architecture: c4 (conv5_x is the head of every region), dc5 (conv5_x dilated in the trunk, a head of two layers), or
            fpn (a feature pyramid, a head of two layers).
        backbone: a network of backbone/.
        weights: where training starts: a file, torchvision://NAME, detectron2://PATH, or null for random weights.
        recipe: how those weights want pictures and network: torchvision, msra, detectron2 or v1_rgb.
        norm: of the whole network; frozen_bn needs weights.
        conv5_norm: of conv5_x alone; null as norm.
        stride_in: where a bottleneck strides; null as the recipe says.
        stem_pool: padding of the stem's pooling; null as the recipe says.
        freeze_at: 1 freezes conv1, 2 also conv2_x (the papers and detectron2), 0 nothing.
        fpn_channels: of a pyramid's levels.
        anchors: see there.
        rpn: see there.
        roi: see there.
    """

    architecture: Literal["c4", "dc5", "fpn"] = "c4"
    backbone: BackboneName = "resnet101"
    weights: str | None = None
    recipe: Literal["torchvision", "msra", "detectron2", "v1_rgb"] = "torchvision"
    norm: NormName = "frozen_bn"
    conv5_norm: NormName | None = None
    stride_in: Literal["3x3", "1x1"] | None = None
    stem_pool: Literal["pad1", "ceil"] | None = None
    freeze_at: Literal[0, 1, 2, 3, 4, 5] = 2
    fpn_channels: PositiveInt = 256
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi: RoIConfig = field(default_factory=RoIConfig)


@dataclass(frozen=True)
class DataConfig:
    """The data, and what happens to a picture before the model sees it.

    Attributes:
        format: coco (JSON), voc (XML folders) or shapes (drawn, needs no files).
        root: folder of the data set.
        train: what to train on. coco: a split such as train2017, or a JSON's path under root. voc: an image set such as
            trainval, or VOC2007/trainval+VOC2012/trainval. shapes: a number of pictures.
        val: what to evaluate on, likewise; null evaluates nothing.
        short_side: in pixels; several are drawn from in training, the last one is used in testing.
        max_side: a longer side is scaled down to this (the papers: 1000).
        flip: probability of a mirrored picture in training.
        augment: albumentations transforms for training, each {name: {argument: value}}.
        keep_empty: train on images without objects too (detectron2 drops them).
        keep_difficult: train on VOC's difficult objects too (the papers do not).
        group_by_aspect: batches hold only wide or only tall pictures, which saves padding.
        workers: loading processes; 0 loads in the training process.
        timeout: seconds after which a loading process that gives nothing ends the run.
        seed: of the drawn set.
    """

    format: Literal["coco", "voc", "shapes"] = "coco"
    root: str = "datasets/coco"
    train: Name = "train2017"
    val: Name | None = "val2017"
    short_side: tuple[PositiveInt, ...] = (640, 672, 704, 736, 768, 800)
    max_side: PositiveInt = 1333
    flip: Share = 0.5
    augment: tuple[dict[str, dict[str, Any]], ...] = ()
    keep_empty: bool = False
    keep_difficult: bool = False
    group_by_aspect: bool = True
    workers: NonNegativeInt = 4
    timeout: PositiveInt = 600
    seed: NonNegativeInt = 0


@dataclass(frozen=True)
class SolverConfig:
    """Optimisation, and when to look at it.

    Attributes:
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
        batch_size: images a step, over all processes and accumulated parts.
        accumulate: parts that a step's images are computed in, one after the other.
        max_iter: steps. auto, or 0: from the number of training images, 12 epochs but 1000 steps at least.
        schedule: step (changed at steps), cosine, or plateau (changed when evaluations bring nothing better).
        steps: where the rate is multiplied by gamma; below 1 a fraction of max_iter.
        gamma: see steps.
        patience: plateau: evaluations without a better one before the rate is multiplied by gamma.
        warmup: steps of linear warm-up; below 1 a fraction of max_iter.
        warmup_factor: share of the rate that warm-up starts at.
        clip_norm: the gradient's norm is limited to this; null does not.
        precision: float32, bf16 (autocast; boxes and losses stay in float32), or auto: bf16 where the machine multiplies
            it natively, else float32.
        compile: compile the trunk, the RPN and the head by torch.compile: for GPUs (on a CPU measured to gain nothing in
            float32, and 5 % in bf16, for half a minute at the start).
        cuda_graphs: evaluations replay a recording for picture sizes that come more than once: for GPUs, where pictures are
            of few sizes.
        ema: decay of a moving average of the weights, which is then what is evaluated and saved as best; null has none.
        eval_every: steps between evaluations; below 1 a fraction of max_iter; 0 only at the end.
        val_loss: also compute the losses over the validation pictures at an evaluation.
        checkpoint_every: steps between checkpoints; below 1 a fraction of max_iter.
        not_finite: what happens on a non-finite loss: stop (training ends, and the step lies in not_finite.pth, which
            tools/replay.py repeats), skip (the step changes no weights, and is counted in the log), or recover (back to the
            last good state at half the learning rate, three times at most).
        early_stop: stop after this many evaluations without a better AP; null does not.
        log_every: steps between lines of metrics.csv and metrics.jsonl.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    base_lr: PositiveFloat = 0.02
    reference_batch: PositiveInt = 16
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    trunk_lr_factor: PositiveFloat = 1.0
    momentum: Share = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    norm_decay: bool = True
    batch_size: PositiveInt = 16
    accumulate: PositiveInt = 1
    max_iter: AutoSteps = 270000
    schedule: Literal["step", "cosine", "plateau"] = "step"
    steps: tuple[PositiveFloat, ...] = (210000, 250000)
    gamma: Share = 0.1
    patience: PositiveInt = 3
    warmup: NonNegativeFloat = 1000
    warmup_factor: Share = 0.001
    clip_norm: PositiveFloat | None = None
    precision: Literal["float32", "bf16", "auto"] = "float32"
    compile: bool = False
    cuda_graphs: bool = False
    ema: Share | None = None
    eval_every: NonNegativeFloat = 0
    val_loss: bool = False
    checkpoint_every: PositiveFloat = 5000
    not_finite: Literal["stop", "skip", "recover"] = "stop"
    early_stop: PositiveInt | None = None
    log_every: PositiveInt = 20

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"solver.batch_size={self.batch_size} must be a multiple of solver.accumulate={self.accumulate}"
            )
        if self.schedule == "plateau" and not self.eval_every:
            raise ValueError("solver.schedule=plateau looks at evaluations: set solver.eval_every")


@dataclass(frozen=True)
class PretrainConfig:
    """Training the detector on mosaics of drawn crops, one object each, before it sees pictures (shapes only).

    Attributes:
        iterations: steps; 0 has none.
        batch_size: mosaics a step.
        mosaic: their side in pixels, about: as many crops as come nearest.
        sizes: sides of the crops in pixels, smallest first. Not multiples of the stride, so that objects lie at every
            offset from its grid.
        crops: how many of the smallest are drawn; each is seen turned, mirrored and in other colours.
        lr: largest learning rate of a one-cycle schedule.
        rois: sampled a mosaic for the RoI head (in place of model.roi.batch_per_image).
        foreground_fraction: of them. Mostly objects: which class is harder to learn than where.
        box_loss_weight: of the RoI head, for the same reason below 1.
    """

    iterations: NonNegativeInt = 0
    batch_size: PositiveInt = 2
    mosaic: PositiveInt = 256
    sizes: tuple[PositiveInt, ...] = (36, 68, 132)
    crops: PositiveInt = 6000
    lr: PositiveFloat = 0.002
    rois: PositiveInt = 80
    foreground_fraction: Share = 0.7
    box_loss_weight: NonNegativeFloat = 0.25


@dataclass(frozen=True)
class Config:
    """An experiment.

    Attributes:
        expects: the result that this configuration should give, and its source.
        seed: of weights, order, augmentation and sampling.
        deterministic: refuse operations whose result differs from run to run on a GPU (slower); a CPU repeats itself anyway.
        model: the detector.
        data: pictures and boxes.
        solver: optimisation.
        pretrain: on drawn crops.
    """

    expects: str = ""
    seed: NonNegativeInt = 0
    deterministic: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)

    def __post_init__(self) -> None:
        if self.solver.schedule == "plateau" and self.data.val is None:
            raise ValueError("solver.schedule=plateau looks at evaluations, and data.val is null")
        if not self.data.short_side:
            raise ValueError("data.short_side must name at least one size")
