"""Property-based tests of box operations: degenerate, distant, tiny, huge and duplicate boxes, and non-finite coordinates.
Results are compared with exact fractions, torchvision's ops, or invariants."""

from fractions import Fraction

import torch
import torchvision.ops as ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher as TorchvisionMatcher

from detection.modeling.box_coder import MAX_LOG_SCALE, BoxCoder
from detection.modeling.matcher import BACKGROUND, FOREGROUND, IGNORED, Matcher
from detection.modeling.sampler import RandomSampler, sample
from detection.ops.boxes import clip, inside, iou, larger_than
from detection.ops.nms import as_words, batched_nms_mask, from_words, nms_topk
from detection.ops.roi_align import roi_align

MANY = settings(max_examples=250, deadline=None)
F32 = 2.0**-24  # half a unit in the last place

# coarse, so that edges touch and overlaps tie; fine; and far beyond any image
lattice = st.integers(-4, 12).map(float)
pixels = st.floats(-100, 2000, width=32)
far = st.integers(-(2**40), 2**40).map(float)
tiny = st.sampled_from([0.0, 1e-6, -1e-6, 1.0, 1.0 + 2**-20, 2**-30])
weird = st.floats(width=32) | pixels


def tensor(rows, columns):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, columns)


def boxes(coordinate, max_size=8, ordered=True):
    rows = st.lists(st.tuples(*[coordinate] * 4), max_size=max_size)

    def as_boxes(rows):
        corners = tensor(rows, 4).reshape(-1, 2, 2)
        return torch.cat((corners.amin(1), corners.amax(1)), dim=1) if ordered else corners.flatten(1)

    return rows.map(as_boxes)


any_boxes = st.one_of(boxes(lattice), boxes(pixels), boxes(far), boxes(tiny))


def exact_iou(a, b):
    a, b = [Fraction(v) for v in a.tolist()], [Fraction(v) for v in b.tolist()]
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - width * height
    return float(width * height / union) if union else 0.0


@MANY
@given(any_boxes, any_boxes)
def test_iou_equals_the_exact_fraction(a, b):
    """Within a few roundings, for boxes of any size."""
    expected = torch.tensor([[exact_iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))
    torch.testing.assert_close(iou(a, b), expected, rtol=12 * F32, atol=1e-30)
    assert torch.equal(iou(a, b), iou(b, a).T)


@MANY
@given(boxes(weird, ordered=False), boxes(weird, ordered=False))
def test_iou_of_arbitrary_boxes_does_not_raise(a, b):
    assert iou(a, b).shape == (len(a), len(b))
    assert not iou(a, b).isnan().any()


@MANY
@given(boxes(weird, ordered=False), st.integers(1, 2000), st.integers(1, 2000))
def test_clipped_boxes_lie_inside_or_are_degenerate(b, height, width):
    clipped = clip(b, (height, width))
    usable = larger_than(clipped, 0)
    assert inside(clipped[usable], (height, width)).all()
    assert clipped[usable].isfinite().all()
    assert torch.equal(clip(clipped, (height, width))[usable], clipped[usable])


@MANY
@given(st.data())
def test_decode_inverts_encode(data):
    """Within a few roundings of coordinates and sides, as long as no side grows beyond the coder's clamp."""
    count = data.draw(st.integers(1, 6))
    side = st.floats(0.125, 2000, width=32)

    def some():
        corner = tensor(data.draw(st.lists(st.tuples(pixels, pixels), min_size=count, max_size=count)), 2)
        size = tensor(data.draw(st.lists(st.tuples(side, side), min_size=count, max_size=count)), 2)
        return torch.cat((corner, corner + size), dim=1)

    b, reference = some(), some()
    reference = torch.where(larger_than(reference, 0)[:, None], reference, torch.tensor([0.0, 0, 1, 1]))
    b = torch.where(larger_than(b, 0)[:, None], b, reference)
    size, ref_size = b[:, 2:] - b[:, :2], reference[:, 2:] - reference[:, :2]
    grown = torch.log(size / ref_size).amax(dim=1)
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        coder = BoxCoder(weights)
        back = coder.decode(coder.encode(b, reference), reference)
        fits = grown <= MAX_LOG_SCALE
        # a centre's rounding error is that of the largest intermediate value; a side's that of exp(log(side))
        scale = torch.cat((b, reference), dim=1).abs().amax(dim=1, keepdim=True) + ref_size.amax(dim=1, keepdim=True)
        slack = 8 * F32 * scale + 16 * F32 * size.amax(dim=1, keepdim=True)
        assert ((back - b).abs() <= slack)[fits].all()
        assert ((back[:, 2:] - back[:, :2]) <= ref_size * 62.5 + 8 * slack)[~fits].all() or fits.all()


@MANY
@given(st.lists(st.tuples(*[st.floats(width=32)] * 4), min_size=1, max_size=6))
def test_arbitrary_offsets_decode_to_a_box_inside_or_none(rows):
    """Boxes of overflowed outputs are removed, and never written to a file."""
    deltas = tensor(rows, 4)
    decoded = clip(BoxCoder().decode(deltas, torch.tensor([[3.0, 4, 50, 60]]).expand(len(deltas), 4)), (100, 120))
    usable = larger_than(decoded, 0)
    assert inside(decoded[usable], (100, 120)).all()
    assert not usable[deltas.isnan().any(dim=1)].any()


@MANY
@given(any_boxes, any_boxes, st.sampled_from([(0.7, 0.3), (0.5, 0.5), (0.6, 0.0), (1.0, 0.0)]), st.booleans())
def test_matching_equals_torchvision(ground_truth, b, thresholds, keep_best):
    index, label = Matcher(*thresholds, keep_best=keep_best)(ground_truth, b)
    if not len(ground_truth):
        assert (label == BACKGROUND).all()
        return
    if not len(b):
        assert index.shape == label.shape == (0,)
        return
    overlaps = iou(ground_truth, b)
    torchvision_matches = TorchvisionMatcher(*thresholds, allow_low_quality_matches=False)(overlaps)
    expected = torch.where(
        torchvision_matches >= 0, FOREGROUND, torch.where(torchvision_matches == -1, BACKGROUND, IGNORED)
    )
    if keep_best:  # torchvision also keeps non-overlapping boxes as the best of an object that overlaps none
        best = overlaps.amax(dim=1, keepdim=True)
        expected[((overlaps == best) & (best > 0)).any(dim=0)] = FOREGROUND
    assert torch.equal(label.long(), expected)
    assert torch.equal(overlaps.gather(0, index[None])[0], overlaps.amax(dim=0))


@MANY
@given(st.lists(st.sampled_from([FOREGROUND, BACKGROUND, IGNORED]), max_size=60), st.integers(1, 40), st.floats(0, 1))
def test_samples_have_their_label(kinds, quota, fraction):
    label = torch.tensor(kinds, dtype=torch.int8)
    index, kind = sample(RandomSampler(quota, fraction), label, None, padded=False)
    foreground, background = int((label == FOREGROUND).sum()), int((label == BACKGROUND).sum())
    most = min(foreground, int(quota * fraction))
    assert torch.equal(label[index], kind)
    assert len(index.unique()) == len(index)
    assert int((kind == FOREGROUND).sum()) == most
    assert int((kind == BACKGROUND).sum()) == min(background, quota - most)
    assert torch.equal(kind.sort(descending=True).values, kind)


@MANY
@given(st.one_of(boxes(lattice, 40), boxes(tiny, 40), boxes(pixels, 40)), st.floats(0, 1, width=32), st.integers(1, 50))
def test_nms_equals_torchvision(b, threshold, limit):
    scores = torch.linspace(1, 0, len(b))
    expected = ops.nms(b, scores, threshold)[:limit]
    assert torch.equal(nms_topk(b, scores, threshold, limit), expected)
    valid = torch.ones(1, len(b), dtype=torch.bool)
    assert torch.equal(batched_nms_mask(b[None], valid, threshold, limit)[0].nonzero()[:, 0], expected)


@MANY
@given(st.lists(st.lists(st.booleans(), min_size=70, max_size=70), min_size=1, max_size=4), st.integers(0, 70))
def test_unpacked_bits_equal_the_packed(rows, count):
    bits = torch.tensor(rows)[:, :count]
    assert torch.equal(from_words(as_words(bits), count), bits)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(boxes(pixels), boxes(tiny), boxes(lattice)),
    st.sampled_from([0, 1, 2]),
    st.booleans(),
    st.sampled_from([1, 2]),
)
def test_pooling_arbitrary_regions_equals_torchvision(b, sampling_ratio, aligned, bin_stride):
    features = torch.randn(1, 3, 7, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    regions = torch.nn.functional.pad(b, (1, 0)).double()
    expected = ops.roi_align(features, regions, 4, 1 / 16, sampling_ratio, aligned)[:, :, ::bin_stride, ::bin_stride]
    result = roi_align(features, regions, 4, 1 / 16, sampling_ratio, aligned, bin_stride)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-11)


@settings(max_examples=100, deadline=None)
@given(boxes(pixels, ordered=False))
def test_degenerate_regions_pool_to_zero(b):
    """torchvision's kernel raises an allocator error for these."""
    b = torch.cat((b[:, 2:], b[:, 2:] - (b[:, :2] - b[:, 2:]).abs() - 33.0), dim=1)
    result = roi_align(torch.ones(1, 2, 7, 9), torch.nn.functional.pad(b, (1, 0)), 2, 1 / 16, 0, True)
    assert torch.equal(result, torch.zeros(len(b), 2, 2, 2))
