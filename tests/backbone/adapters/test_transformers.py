import pytest
import torch

transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402

from backbone.adapters.transformers import ResDetBackbone, ResDetConfig  # noqa: E402


def test_backbone_interface(tmp_path):
    backbone = transformers.AutoBackbone.from_config(
        ResDetConfig(network="resnet18", out_features=["stage2", "stage4"])
    )
    assert isinstance(backbone, ResDetBackbone)
    assert backbone.channels == [128, 512]
    x = torch.rand(1, 3, 64, 64)
    out = backbone.eval()(x, output_hidden_states=True)
    assert [tuple(m.shape) for m in out.feature_maps] == [(1, 128, 8, 8), (1, 512, 2, 2)]
    assert len(out.hidden_states) == 5
    backbone.save_pretrained(tmp_path)
    loaded = ResDetBackbone.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(x).feature_maps[1], out.feature_maps[1])


def test_in_detr():
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone_config=ResDetConfig(network="resnet18", options={"norm": "frozen_bn", "freeze_at": 2}),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=5,
        num_labels=3,
    )
    detector = transformers.DetrForObjectDetection(config)
    out = detector(pixel_values=torch.rand(1, 3, 64, 64))
    assert out.pred_boxes.shape == (1, 5, 4)
    out.pred_boxes.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in detector.named_parameters() if "layer4" in n)


def test_missing_keys_are_initialised(tmp_path):
    ResDetBackbone(ResDetConfig(network="resnet18")).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = {k: v for k, v in load_file(path).items() if "layer4" not in k}
    save_file(state, path, metadata={"format": "pt"})
    net = ResDetBackbone.from_pretrained(tmp_path).net
    assert torch.equal(net.layer4[0].bn1.running_var, torch.ones(512))
    assert 0.01 < float(net.layer4[0].conv1.weight.std()) < 0.1
    with pytest.raises(ValueError, match="four stages"):
        ResDetBackbone(ResDetConfig(network="cifar_resnet20"))
