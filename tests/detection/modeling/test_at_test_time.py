"""Options of testing: with none, or where they change nothing by definition, the detector's own detections; padded equals
compact with each; refinement, scales and ensembles against the same computed step by step."""

import copy
import dataclasses

import pytest
import torch
from exports import spread
from torchvision.ops import batched_nms
from torchvision.transforms.v2 import functional as F

from backbone import resnet18
from detection.config import TestConfig
from detection.modeling.at_test_time import AtTestTime, _Views
from detection.modeling.build import at_test_time
from detection.modeling.faster_rcnn import FasterRCNN
from detection.modeling.roi_pooler import as_regions
from detection.ops.boxes import clip

SIZES = ((64, 96), (72, 64))


def detector(seed=0, **options):
    torch.manual_seed(seed)
    widths = {"widths": [8, 16, 32, 64], "stem_width": 8}
    roi = {"score_threshold": 0.1, "max_detections": 30, **options.pop("roi", {})}
    options = {"architecture": "c4", "anchors": {"sizes": [16, 32, 64]}} | options
    model = FasterRCNN(
        resnet18(norm="bn", **widths), 3, rpn={"before_nms_test": 60, "after_nms_test": 20}, roi=roi, **options
    )
    spread(model, torch.rand(3, 64, 96))
    return model.double()


def pictures(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator, dtype=torch.float64) for size in SIZES]


def resized(images, sides):
    return [[F.resize(x, [round(x.shape[1] * s), round(x.shape[2] * s)]).clamp(0, 1) for s in sides] for x in images]


def assert_same(a, b, tolerance=1e-9):
    for one, other in zip(a, b, strict=True):
        assert one["labels"].tolist() == other["labels"].tolist()
        torch.testing.assert_close(one["boxes"], other["boxes"], rtol=0, atol=tolerance)
        torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def model():
    return detector()


@pytest.fixture(scope="module")
def baseline(model):
    found = model(pictures())
    assert all(len(image["boxes"]) > 5 for image in found)
    return found


def test_with_no_options_the_detector_itself_is_tested(model, baseline):
    assert at_test_time([model], TestConfig()) is model
    assert_same(AtTestTime([model])(pictures()), baseline, 0)


OPTIONS = [
    {"refine": "best"},
    {"refine": "all"},
    {"refine": "best", "vote": True, "nms_iou": 0.3},
    {"vote": True},
    {"merge": "features"},
    {"merge": "conv5"},
    {"merge": "pooled", "refine": "best"},
    {"merge": "union", "vote": True},
    {"flip": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("architecture", ["c4", "fpn"])
def test_padded_equals_compact(options, architecture):
    anchors = {"sizes": [8, 16, 32, 64, 128]} if architecture == "fpn" else {"sizes": [16, 32, 64]}
    model = detector(architecture=architecture, anchors=anchors, roi={"context": True})
    images = pictures()
    scaled = resized(images, (0.5, 1.0, 1.5)) if "merge" in options else []
    tested = AtTestTime([model], **options)
    assert_same(tested(images, scaled, padded=True), tested(images, scaled, padded=False))


def test_an_image_without_detections(model):
    silent = copy.deepcopy(model)
    silent.roi_head.score_threshold = 1.0
    tested = AtTestTime([silent], refine="all", vote=True, flip=True)
    for padded in (False, True):
        assert [len(image["boxes"]) for image in tested(pictures(), padded=padded)] == [0, 0]


@pytest.mark.parametrize("refine", ["best", "all"])
def test_refinement_that_moves_nothing_changes_nothing(refine):
    """Offsets of zero: the second pass is the first, and NMS drops the copies."""
    still = detector()
    torch.nn.init.zeros_(still.roi_head.deltas.weight)
    torch.nn.init.zeros_(still.roi_head.deltas.bias)
    assert_same(AtTestTime([still], refine=refine)(pictures()), still(pictures()))


def test_refinement_step_by_step(model):
    """The best class' boxes pooled and scored again, both together, NMS 0.3 (appendix B)."""
    images, head = pictures(), model.roi_head
    maps = model.trunk(model.batch(images))
    proposals = model.rpn.proposals(model.rpn(maps), SIZES)
    expected = []
    for i, size in enumerate(SIZES):

        def score(boxes, i=i, size=size):
            regions = torch.cat((torch.full((len(boxes), 1), float(i), dtype=boxes.dtype), boxes), 1)
            logits, deltas = head(maps, regions)
            decoded = torch.stack([head.coder.decode(deltas[:, k], boxes) for k in range(3)], 1)
            return logits.softmax(1)[:, 1:], clip(decoded, size)

        first_scores, first_boxes = score(proposals[i])
        best = first_scores.argmax(1)
        again = [boxes for boxes, k in zip(first_boxes, best, strict=True)]
        regions = torch.stack([boxes[k] for boxes, k in zip(again, best, strict=True)])
        second_scores, second_boxes = score(regions)
        scores, boxes = torch.cat((first_scores, second_scores)), torch.cat((first_boxes, second_boxes))
        row, label = (scores > head.score_threshold).nonzero(as_tuple=True)
        keep = batched_nms(boxes[row, label], scores[row, label], label, 0.3)[: head.max_detections]
        found = {"boxes": boxes[row, label][keep], "scores": scores[row, label][keep], "labels": label[keep] + 1}
        expected.append(found)
    assert_same(AtTestTime([model], refine="best", nms_iou=0.3)(images), expected)


@pytest.mark.parametrize("merge", ["features", "conv5", "pooled", "union"])
def test_the_base_scale_alone_is_the_baseline(model, baseline, merge):
    images = pictures()
    assert_same(AtTestTime([model], merge=merge)(images, resized(images, (1.0,))), baseline)


def test_features_are_the_larger_of_two_scales(model):
    """By hand, for regions that are all below 224 pixels at the largest scale: the last two."""
    images, head = pictures(), model.roi_head
    scaled = resized(images, (0.5, 1.0, 1.5))
    views = _Views(model, images, scaled, SIZES, False)
    proposals = views.proposals
    scores = [s for s, _ in views.score(proposals, "features")]
    features = []
    for k in (1, 2):
        maps = model.trunk(model.batch([v[k] for v in scaled]))
        boxes = []
        for image, view, p in zip(images, scaled, proposals, strict=True):
            ratio = [view[k].shape[-1] / image.shape[-1], view[k].shape[-2] / image.shape[-2]]
            boxes.append(p * torch.tensor(ratio * 2, dtype=torch.float32))
        features.append(head.describe(head.pooler(maps, as_regions(boxes))))
    logits, _ = head.classify(torch.maximum(*features), as_regions(proposals))
    torch.testing.assert_close(torch.cat(scores), logits.softmax(1)[:, 1:], rtol=0, atol=1e-6)


def test_flips_and_scales_are_joined(model):
    """A detector that looks at flipped images alone finds the mirrored boxes; the union has both."""
    images = pictures()
    mirrored = model([image.flip(-1) for image in images])
    joined = AtTestTime([model], flip=True, nms_iou=1.0)
    model.roi_head.max_detections, limit = 1000, model.roi_head.max_detections
    try:
        both = joined(images)
    finally:
        model.roi_head.max_detections = limit
    for found, flipped, image in zip(both, mirrored, images, strict=True):
        width = image.shape[-1]
        for box in flipped["boxes"][:5]:
            wanted = torch.stack((width - box[2], box[1], width - box[0], box[3]))
            assert (found["boxes"] - wanted).abs().max(1).values.min() < 1e-9


def test_an_ensemble_of_copies_is_the_detector(model, baseline):
    """Proposals three times, means of equal scores and boxes."""
    assert_same(AtTestTime([model, copy.deepcopy(model), model])(pictures()), baseline)
    other = detector(seed=5)
    one, two = AtTestTime([model, other], vote=True)(pictures()), AtTestTime([other, model], vote=True)(pictures())
    assert_same(one, two)


def test_an_ensemble_wants_the_same_classes(model):
    torch.manual_seed(0)
    other = FasterRCNN(resnet18(norm="bn", widths=[8, 16, 32, 64], stem_width=8), 4)
    with pytest.raises(ValueError, match=r"the same classes, got \[3, 4\]"):
        AtTestTime([model, other])
    with pytest.raises(ValueError, match="refine must be one of none, best, all"):
        AtTestTime([model], refine="twice")


def test_options_are_those_of_the_configuration():
    names = {f.name for f in dataclasses.fields(TestConfig)}
    assert names == {"refine", "vote", "scales", "merge", "flip", "nms_iou"}


# ---- global context


def test_context_without_weights_is_the_detector_without_it():
    plain, context = detector(), detector(roi={"context": True})
    state = plain.state_dict()
    for name in ("roi_head.classes.weight", "roi_head.deltas.weight"):
        state[name] = torch.cat((state[name], torch.zeros_like(state[name])), 1)
    context.load_state_dict(state)
    assert_same(context(pictures()), plain(pictures()))
    assert context.roi_head.classes.in_features == 2 * plain.roi_head.classes.in_features


def test_images_of_a_batch_do_not_mix():
    """Each image's context is its own, over its size without padding."""
    model = detector(roi={"context": True})
    rows = model.roi_head.with_whole_images(torch.zeros(1, 5), SIZES)
    assert rows.tolist() == [[0, 0, 0, 96, 64], [1, 0, 0, 64, 72], [0] * 5]
    features = torch.randn(2, 32, 6, 6, dtype=torch.float64)
    regions = torch.tensor([[0.0, 0, 0, 40, 40], [1.0, 8, 8, 60, 50]], dtype=torch.float64)
    both, _ = model.roi_head(features, regions, sizes=SIZES)
    features[1] += 1
    changed, _ = model.roi_head(features, regions, sizes=SIZES)
    assert torch.equal(both[0], changed[0])
    assert not torch.equal(both[1], changed[1])


def test_context_in_chunks_equals_all_at_once():
    """Losses and gradients, where the head takes four regions at a time."""
    model = detector(roi={"context": True, "batch_per_image": 16})
    images = pictures()
    targets = [{"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([2])} for _ in images]
    results = []
    for chunk_size in (None, 4):
        model.roi_head.chunk_size = chunk_size
        model.zero_grad()
        losses = model.losses(model.batch(images), SIZES, targets, torch.Generator().manual_seed(0))
        sum(losses.values()).backward()
        results.append((torch.stack(list(losses.values())), model.trunk.conv1.weight.grad.clone()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=0)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-9, atol=1e-12)


def test_context_needs_the_sizes():
    model = detector(roi={"context": True})
    with pytest.raises(ValueError, match="pass sizes="):
        model.roi_head(torch.randn(1, 32, 6, 6, dtype=torch.float64), torch.zeros(1, 5, dtype=torch.float64))
