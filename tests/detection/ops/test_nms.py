import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torchvision.ops import nms

from detection.ops.nms import as_words, batched_nms_mask, check_nms, from_words, has_kernel, nms_topk


def random_boxes(generator, *shape, spread):
    corner = torch.rand(*shape, 2, generator=generator) * spread
    return torch.cat((corner, corner + 20 + torch.rand(*shape, 2, generator=generator) * 30), dim=-1)


@pytest.mark.parametrize("limit", [1, 5, 40, 199, 200, 1000])
def test_nms_topk_equals_full_nms(limit):
    generator = torch.Generator().manual_seed(limit)
    for spread in (1.0, 30.0, 500.0):  # nearly all, some, hardly any suppressed
        boxes = random_boxes(generator, 200, spread=spread)
        scores = torch.rand(200, generator=generator).sort(descending=True).values
        scores[50:60] = scores[50]  # ties
        assert torch.equal(nms_topk(boxes, scores, 0.5, limit), nms(boxes, scores, 0.5)[:limit])


def test_no_boxes():
    assert len(nms_topk(torch.zeros(0, 4), torch.zeros(0), 0.5, 10)) == 0
    assert batched_nms_mask(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), 0.5, 10).shape == (2, 0)


def test_suppressed_boxes_do_not_suppress():
    """B is suppressed by A; C overlaps B alone, so it stays."""
    boxes = torch.tensor([[[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [0, 0, 10, 10]]])
    everything = torch.ones(1, 4, dtype=torch.bool)
    assert batched_nms_mask(boxes, everything, 0.4, 10).tolist() == [[True, False, True, False]]
    assert batched_nms_mask(boxes, everything, 0.4, 1).tolist() == [[True, False, False, False]]
    without_first = torch.tensor([[False, True, True, True]])
    assert batched_nms_mask(boxes, without_first, 0.4, 10).tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("limit", [3, 1000])
def test_each_set_equals_torchvision(limit):
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(generator, 5, 90, spread=120.0)
    valid = torch.rand(5, 90, generator=generator) < 0.7
    valid[3] = False
    kept = batched_nms_mask(boxes, valid, 0.4, limit)
    for set_boxes, set_valid, set_kept in zip(boxes, valid, kept, strict=True):
        scores = torch.arange(90, 0, -1.0)
        expected = set_valid.nonzero()[:, 0][nms(set_boxes[set_valid], scores[set_valid], 0.4)[:limit]]
        assert set_kept.nonzero()[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_words_contain_bits(n):
    bits = torch.rand(3, n, generator=torch.Generator().manual_seed(n)) < 0.5
    words = as_words(bits)
    assert words.shape == (3, -(-n // 64))
    assert torch.equal(from_words(words, n), bits)
    # by Python's integers, which have no sign in their 64th bit
    assert int(words[0, 0]) % 2**64 == sum(2**i for i in range(min(n, 64)) if bits[0, i])


def test_triton_kernels_equal_the_reference():
    """The GPU kernels, run by Triton's interpreter."""
    pytest.importorskip("triton")
    code = """
        import torch
        from detection.ops import nms_triton
        from detection.ops.nms import batched_nms_mask, as_words, from_words
        generator = torch.Generator().manual_seed(0)
        cases = ((2, 70, 30.0, 1000), (3, 150, 100.0, 1000), (2, 200, 300.0, 7), (1, 64, 500.0, 1), (2, 5, 10.0, 3), (1, 1, 1.0, 1))
        for sets, n, spread, limit in cases:
            corner = torch.rand(sets, n, 2, generator=generator) * spread
            boxes = torch.cat((corner, corner + 5 + torch.rand(sets, n, 2, generator=generator) * 40), dim=-1)
            boxes[0, n // 2] = 0  # degenerate: 0 / 0 with itself
            valid = torch.rand(sets, n, generator=generator) < 0.8
            valid[:, 64:128] &= torch.arange(sets)[:, None] > 0  # a word without any
            result = from_words(nms_triton.batched_nms_mask(boxes, as_words(valid), 0.5, limit), n)
            assert torch.equal(result, batched_nms_mask(boxes, valid, 0.5, limit)), (sets, n, spread, limit)
        assert nms_triton.batched_nms_mask(torch.zeros(0, 3, 4), torch.zeros(0, 1, dtype=torch.int64), 0.5, 9).shape == (0, 1)
        print("same")
    """
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True)
    assert ended.stdout == "same\n", ended.stderr


def test_triton_kernels_compile(tmp_path):
    """Compile to machine code for GPUs, also where an argument of 1 is specialised to a constant."""
    pytest.importorskip("triton")
    code = """
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource
        from detection.ops import nms_triton

        overlaps = {"boxes": "*fp32", "valid": "*i64", "overlaps": "*i64", "n": "i32", "words": "i32", "iou": "fp32", "WORD": "constexpr"}
        through = {"overlaps": "*i64", "valid": "*i64", "kept": "*i64", "words": "i32", "limit": "i32", "COLUMNS": "constexpr", "ROWS": "constexpr"}
        for kernel, signature, constants in (
            (nms_triton._overlaps, overlaps, {"WORD": 64}),
            (nms_triton._overlaps, overlaps, {"WORD": 64, "words": 1, "n": 1}),
            (nms_triton._pass_through, through, {"COLUMNS": 256, "ROWS": 16}),
            (nms_triton._pass_through, through, {"COLUMNS": 1, "ROWS": 16, "words": 1, "limit": 1}),
        ):
            signature = signature | dict.fromkeys(constants, "constexpr")
            source = ASTSource(kernel, signature, constants)
            assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
        print("compiled")
    """
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True)
    assert ended.stdout == "compiled\n", ended.stderr


@pytest.mark.gpu
@pytest.mark.parametrize(("sets", "n", "limit"), [(2, 12000, 2000), (80, 1000, 100), (10, 2000, 1000), (1, 3, 1)])
def test_gpu_equals_cpu(sets, n, limit):
    generator = torch.Generator().manual_seed(0)
    boxes = random_boxes(generator, sets, n, spread=600.0)
    valid = torch.rand(sets, n, generator=generator) < 0.9
    result = batched_nms_mask(boxes.cuda(), valid.cuda(), 0.5, limit).cpu()
    assert (
        result != batched_nms_mask(boxes, valid, 0.5, limit)
    ).sum() <= n // 1000  # IoUs at the threshold may round differently


def test_self_test_accepts_correct_and_reports_wrong_kernels():
    def right(boxes, valid, iou, limit):
        return batched_nms_mask(boxes, valid, iou, limit)

    cpu = torch.device("cpu")
    assert check_nms(right, cpu) == ""
    assert "differ from torchvision" in check_nms(lambda b, v, iou, limit: right(b, v, 0.45, limit), cpu)
    assert "differ from torchvision" in check_nms(lambda b, v, iou, limit: right(b, v, iou, 1000), cpu)
    assert "differ from torchvision" in check_nms(
        lambda b, v, iou, limit: right(b, torch.ones_like(v), iou, limit), cpu
    )


def test_wrong_kernel_is_disabled(monkeypatch, caplog):
    from detection.ops import nms as module

    device = torch.device("cuda", 0)
    for kernel in (lambda *args: torch.zeros(2, 130, dtype=torch.bool), None):  # another result; no Triton: an error
        monkeypatch.setattr(module, "_kernel", kernel)
        monkeypatch.setattr(torch.Tensor, "to", lambda self, *args, **kwargs: self)  # there is no such device here
        has_kernel.cache_clear()
        assert not has_kernel(device)
        monkeypatch.undo()
        assert "NMS is torchvision's" in caplog.text
        caplog.clear()
    has_kernel.cache_clear()
