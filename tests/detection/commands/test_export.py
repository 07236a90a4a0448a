"""resdet export writes a file that the detector's own detections were compared with, or nothing."""

import numpy as np
import pytest
import torch

from detection import Predictor
from detection.cli import run
from detection.export import api, formats

pytestmark = pytest.mark.usefixtures("thin_networks")


def go(weights, output, *options):
    return run("export", [str(weights), "--output", str(output), *options])


def test_a_file_of_dynamic_size_for_the_predictor(exported, tmp_path, capsys):
    output = tmp_path / "d.pt2"
    assert go(exported["weights"], output, "--to", "torch-export", "--top", "12") == 0
    out = capsys.readouterr().out
    assert "[1, 3, H, W], at most 12 detections" in out
    assert "on 8 images of" in out
    image = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    found, wanted = Predictor(output)(image), Predictor(exported["weights"], device="cpu", precision="float32")(image)
    assert len(found) == 12
    assert np.allclose(found.boxes, wanted.boxes[:12], atol=0.02)
    assert np.allclose(found.scores, wanted.scores[:12], atol=1e-4)
    assert (found.classes, found.category_ids) == (wanted.classes, wanted.category_ids)
    assert go(exported["weights"], output, "--to", "torch-export") == 2
    assert "already exists" in capsys.readouterr().err


def test_where_detections_differ_nothing_is_written(exported, tmp_path, monkeypatch, capsys):
    def broken(program, info, path):
        other = torch.export.export(Half(), (torch.zeros(1, 3, 64, 96, dtype=torch.uint8), torch.zeros(1, 2).long()))
        formats.save_torch_export(other, info, path)

    class Half(torch.nn.Module):
        def forward(self, images, sizes):
            x = images.float().mean() * 0
            zeros = x + torch.zeros(1, 5)
            return zeros[..., None].repeat(1, 1, 4), zeros.long() + 1, zeros + 0.5, zeros[:, 0].long() + 2

    monkeypatch.setitem(api.SAVERS, "torch-export", broken)
    monkeypatch.setattr(api, "trace", lambda graph, info: None)
    assert go(exported["weights"], tmp_path / "d.pt2", "--to", "torch-export", "--size", "64x96") == 2
    error = capsys.readouterr().err
    assert "d.pt2 is not written" in error
    assert "the file lacks label" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "onnx"], "wants a name that ends in .onnx, got"),
        (["--to", "torch-export", "model.roi.nothing=3"], "nothing"),
    ],
)
def test_errors_of_the_user(exported, tmp_path, capsys, options, words):
    assert go(exported["weights"], tmp_path / "d.pt2", *options) == 2
    assert words in capsys.readouterr().err
    assert go(exported["weights"], tmp_path / "no" / "d.pt2", "--to", "torch-export") == 2
    assert "no folder" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--size", "800"], ["--size", "0x3"], ["--batch", "0"], ["--top", "x"]])
def test_options_of_another_form(exported, tmp_path, capsys, options):
    with pytest.raises(SystemExit):
        go(exported["weights"], tmp_path / "d.pt2", "--to", "torch-export", *options)
    assert "wanted" in capsys.readouterr().err
