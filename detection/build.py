"""From a configuration to a model: the only file that knows both."""

from backbone import RECIPES, split_c4
from backbone.resnet import FACTORIES
from detection.anchors import AnchorGenerator
from detection.box_coding import BoxCoder
from detection.config import ModelConfig
from detection.faster_rcnn import FasterRCNN
from detection.matching import Matcher
from detection.roi_head import RoIHead, RoIPooler
from detection.rpn import RPN, ProposalLimits
from detection.sampling import RandomSampler


def build_model(config: ModelConfig, num_classes: int) -> FasterRCNN:
    """Assembles the detector, with random weights; the engine loads ``config.weights``.

    Args:
        config: the ``model`` part of a configuration.
        num_classes: K, without the background.

    Raises:
        ValueError: parts that do not go together, or fewer than one class.
    """
    if num_classes < 1:
        raise ValueError(f"a detector needs at least one class, got {num_classes}")
    recipe = RECIPES[config.recipe]
    net = FACTORIES[config.backbone](
        norm=config.norm,
        conv5_norm=config.conv5_norm,
        stride_in=config.stride_in or recipe.stride_in,
        stem_pool=config.stem_pool or recipe.stem_pool,
        freeze_at=config.freeze_at,
    )
    trunk, conv5 = split_c4(net)
    anchors, rpn, roi = config.anchors, config.rpn, config.roi
    return FasterRCNN(
        trunk,
        RPN(
            trunk.spec.channels,
            AnchorGenerator(anchors.sizes, anchors.aspect_ratios, trunk.spec.stride, anchors.offset),
            channels=rpn.channels,
            matcher=Matcher(rpn.foreground_iou, rpn.background_iou, keep_best=True),
            sampler=RandomSampler(rpn.batch_per_image, rpn.foreground_fraction),
            coder=BoxCoder(),
            train_limits=ProposalLimits(rpn.before_nms_train, rpn.after_nms_train),
            test_limits=ProposalLimits(rpn.before_nms_test, rpn.after_nms_test),
            nms_iou=rpn.nms_iou,
            min_size=rpn.min_size,
            ignore_cross_boundary=rpn.ignore_cross_boundary,
            beta=rpn.beta,
            box_loss_weight=rpn.box_loss_weight,
        ),
        RoIHead(
            RoIPooler(roi.pool, roi.resolution, trunk.spec.stride, roi.sampling_ratio, roi.aligned),
            conv5,
            conv5.spec.channels,
            num_classes,
            matcher=Matcher(roi.foreground_iou, roi.background_iou, roi.background_iou_low),
            sampler=RandomSampler(roi.batch_per_image, roi.foreground_fraction),
            coder=BoxCoder(roi.box_weights),
            append_truth=roi.append_truth,
            beta=roi.beta,
            box_loss_weight=roi.box_loss_weight,
            score_threshold=roi.score_threshold,
            nms_iou=roi.nms_iou,
            max_detections=roi.max_detections,
        ),
        recipe,
    )
