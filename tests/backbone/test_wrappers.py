"""What training scripts save around a network's tensors: containers, prefixes, moving averages."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

from backbone import load_weights, resnet18
from backbone.wrappers import find_tensors

RAW = resnet18(num_classes=4).state_dict()
AVERAGED = {name: tensor + 1 for name, tensor in RAW.items()}


def under(prefix, state=RAW):
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED = {
    "torch.compile": under("_orig_mod."),
    "DDP of a compiled one": under("module._orig_mod."),
    "compiled DDP": under("_orig_mod.module."),
    "FSDP": {name.replace(".conv", "._fsdp_wrapped_module.conv"): tensor for name, tensor in RAW.items()},
    "a compiled part": {name.replace("layer1.", "layer1._orig_mod."): tensor for name, tensor in RAW.items()},
    "Lightning": {"state_dict": under("model."), "epoch": 3, "optimizer_states": [{"state": {0: torch.ones(2)}}]},
    "Lightning, net": {"state_dict": under("net.")},
    "an attribute of an attribute": {"state_dict": under("model.encoder.")},
    "kuangliu": {"net": under("module."), "acc": np.float64(93.02), "epoch": 3},
    "torchvision's references": {"model": RAW, "args": argparse.Namespace(lr=0.1, output=Path("out")), "epoch": 3},
    "PyTorch's tutorial": {"model_state_dict": RAW, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(2)}}}},
    "by name in an optimizer": {"model": RAW, "optimizer": {"exp_avg": AVERAGED}},
    "AveragedModel": {"n_averaged": torch.tensor(3), **under("module.", RAW)},
    "any entry": {"checkpoint": {"weights_of_it": RAW}, "history": np.arange(3)},
    "the same twice": {"state_dict": under("model.") | under("net.")},
}


@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_removed(tmp_path, content, caplog):
    torch.save(content, tmp_path / "w.pth")
    net = resnet18(num_classes=4)
    report = load_weights(net, tmp_path / "w.pth")
    assert (report.missing, report.unused, report.mismatched) == ((), (), {})
    assert torch.equal(net.fc.weight, RAW["fc.weight"])
    assert not caplog.text


AVERAGES = {
    "state_dict_ema": ({"state_dict": RAW, "state_dict_ema": AVERAGED}, "(state_dict_ema)", "(state_dict)"),
    "model_ema": ({"model": RAW, "model_ema": {"n_averaged": torch.ones(1), **under("module.", AVERAGED)}}, "(model_ema)", "(model)"),
    "ema": ({"model": RAW, "ema": {"module": AVERAGED, "decay": 0.99}}, "(ema.module)", "(model)"),
    "Lightning": (
        {"state_dict": under("model.") | under("ema_model.module.", AVERAGED)},
        "(state_dict.ema_model)",
        "(state_dict.model)",
    ),
    "beside": (RAW | under("ema.", AVERAGED), "(ema)", "(the file)"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "taken", "left"), AVERAGES.values(), ids=AVERAGES)
def test_the_moving_average_is_taken_and_that_is_said(tmp_path, content, taken, left, caplog):
    torch.save(content, tmp_path / "w.pth")
    net = resnet18(num_classes=4)
    report = load_weights(net, tmp_path / "w.pth")
    assert (report.missing, report.unused) == ((), ())
    assert torch.equal(net.fc.weight, AVERAGED["fc.weight"])
    assert f"w.pth: the moving average of the weights {taken} is taken, not the raw ones {left}" in caplog.text


def test_an_average_without_names_is_said_to_be_left_out():
    found = find_tensors({"model": RAW, "ema": {"shadow_params": [torch.ones(2)]}}, "w.pth")
    assert torch.equal(found.tensors["fc.weight"], RAW["fc.weight"])
    assert found.notes == (
        "its entry 'ema' holds no network that can be told by its names: the raw weights (model) are taken",
    )


@pytest.mark.parametrize(
    "content", [{"student": RAW, "teacher": AVERAGED}, under("online.") | under("target.", AVERAGED)]
)
def test_of_two_networks_none_is_guessed(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"w\.pth holds 2 networks: '(student|online)', '(teacher|target)'; save the one"
    ):
        load_weights(resnet18(num_classes=4), tmp_path / "w.pth")


def test_what_stands_beside_a_network_keeps_its_name():
    content = under("backbone.", {k: v for k, v in RAW.items() if not k.startswith("fc.")})
    found = find_tensors(content | {"fc.weight": RAW["fc.weight"], "neck.0.weight": torch.ones(1)}, "w.pth")
    assert set(found.tensors) == {*RAW, "neck.0.weight"} - {"fc.bias"}


def test_networks_of_other_kinds_lose_wrappers_alone():
    state = {"stem.0.weight": torch.ones(1), "head.bias": torch.ones(2)}
    for content in (state, {"model": state, "step": torch.ones(())}, {"state_dict": under("model.module.", state)}):
        assert list(find_tensors(content, "w.pth").tensors) == list(state)
    assert find_tensors({"optimizer": RAW}, "w.pth").tensors == {}


def test_what_is_no_dictionary_is_refused():
    with pytest.raises(ValueError, match=r"w\.pth: expected a dictionary of tensors, the file contains a list"):
        find_tensors([torch.ones(1)], "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth contains an array that is not a tensor"):
        find_tensors({"a": np.array(["x"])}, "w.pth")


def test_a_dictionary_that_contains_itself_ends():
    content = {"model": RAW}
    content["again"] = content
    assert set(find_tensors(content, "w.pth").tensors) == set(RAW)
