import pytest
import torch
from tiny import CLASSES, batch, detector, trainer
from torch import nn
from torch.utils.data import DataLoader

from backbone import resnet18
from detection import FasterRCNN, load_detector
from detection.checkpoint.metadata import KEY, Classes
from detection.config import Config, SolverConfig
from detection.data.loader import Batch
from detection.training.detection_module import DetectionModule
from detection.training.trainer import make_trainer

NAMES = {"loss_objectness", "loss_rpn_box", "loss_classifier", "loss_box"}


def training(model=None, **solver):
    config = Config(solver=SolverConfig(**({"max_iter": 5, "batch_size": 4} | solver)))
    return DetectionModule(
        model or detector(), config, Classes(CLASSES, (3, 7)), file_of="{}.jpg".format, module="OneMap"
    )


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_losses_are_the_models_on_images_of_0_to_1():
    module, own = training().train(), batch()
    losses = module.compute_losses(own, seeded(3))
    images = [image.float() / 255 for image in own.images]
    wanted = module.detector(images, own.targets, generator=seeded(3))
    assert losses.keys() == NAMES
    for name, value in wanted.items():
        torch.testing.assert_close(losses[name], value)


def test_losses_depend_on_the_seed_of_their_samples():
    module, own = training(detector(batch_per_image=3)).train(), batch()
    first, same, other = (module.compute_losses(own, seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in NAMES)
    assert not all(torch.equal(first[name], other[name]) for name in NAMES)


def test_micro_batches_are_kept_until_the_step_is_whole():
    module = training(accumulate=2, batch_size=2).train()
    module.compute_losses(batch(1), seeded(1))
    assert [kept.seed for kept in module.micro_batches] == [1]
    module.losses = {name: torch.zeros(()) for name in NAMES}
    module.compute_losses(batch(1), seeded(2))
    assert module.micro_batches == []


def test_weighted_focal_losses_of_micro_batches_take_the_step_of_the_whole_batch():
    """All regions are sampled, so that nothing depends on who draws; the micro-batches have different numbers of them."""

    def gradients(batches):
        model = detector(batch_per_image=1000, class_weights=(0.5, 1.0, 4.0), focal_gamma=2.0)
        module = training(model, accumulate=len(batches), batch_size=4, max_iter=1, warmup=0)
        make_trainer(module.solver, []).fit(module, DataLoader(batches, batch_size=None))
        return [parameter.detach() for parameter in module.model.parameters()], module.losses

    images = batch(4)
    images.targets[0] = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}

    def part(rows):
        lists = (images.images, images.targets, images.index, images.sizes, images.readable)
        return Batch(*(values[rows] for values in lists))

    whole, losses = gradients([images])
    parts, same = gradients([part(slice(0, 2)), part(slice(2, 4))])
    assert losses["loss_classifier"].item() == pytest.approx(same["loss_classifier"].item(), rel=1e-6)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_gradients_of_reweighted_micro_batches_have_the_loss_scale(precision):
    """The gradients that join an earlier micro-batch's are scaled as those are: they equal float32's to rounding."""

    def gradients(precision):
        module, passes = training(accumulate=2, batch_size=4, max_iter=1, warmup=0, precision=precision), []
        module.detector.trunk.register_forward_hook(lambda *_: passes.append(1))
        batches = [batch(1), batch(3)]  # which sample different numbers of regions
        make_trainer(module.solver, []).fit(module, DataLoader(batches, batch_size=None))
        assert len(passes) == 4
        return float(module.gradient_norm)

    assert gradients(precision) == pytest.approx(gradients("float32"), rel=0.02)


def test_a_step_that_is_skipped_is_not_reweighted():
    module, passes = training(accumulate=2, batch_size=2).train(), []
    module.detector.trunk.register_forward_hook(lambda *_: passes.append(1))
    module.skip_step = True
    for images in (1, 2):  # which sample different numbers of regions
        module.compute_losses(batch(images), seeded(images))
    assert len(passes) == 2


def test_pretrained_modules_are_the_trunk_and_a_frozen_conv5():
    learns = training(FasterRCNN(resnet18(norm="bn"), 2))
    assert list(learns.pretrained_modules()) == [learns.detector.trunk]
    frozen = training(FasterRCNN(resnet18(norm="frozen_bn"), 2))
    assert list(frozen.pretrained_modules()) == [frozen.detector.trunk, frozen.detector.roi_head.head]


def test_parts_to_compile_have_all_convolutions():
    module = training()
    compiled = {m for part in module.parts_to_compile() for m in part.modules()}
    assert all(m in compiled for m in module.detector.modules() if isinstance(m, nn.Conv2d))


def test_a_saved_step_has_its_images_and_files(tmp_path):
    module, own = training(), batch()
    module._trainer = trainer(step=4)
    note = module.save_step(tmp_path / "step.pth", own, 11, {"loss_box": torch.tensor(2.5)})
    assert "0.jpg, 1.jpg" in note
    assert str(tmp_path / "step.pth") in note
    content = torch.load(tmp_path / "step.pth", weights_only=True)
    assert (content["step"], content["seed"], content["files"]) == (5, 11, ["0.jpg", "1.jpg"])
    assert all(torch.equal(a, b) for a, b in zip(content["images"], own.images, strict=True))
    assert content["losses"] == {"loss_box": 2.5}


def test_weights_come_back_into_a_model_built_alike(tmp_path):
    module = training()
    module.save_weights(tmp_path / "best.pth")
    other = detector()
    nn.init.zeros_(other.rpn.conv.weight)
    found, names = load_detector(tmp_path / "best.pth", other)
    assert names == CLASSES
    assert torch.equal(found.rpn.conv.weight, module.detector.rpn.conv.weight)
    with pytest.raises(ValueError, match="OneMap"):
        load_detector(tmp_path / "best.pth")


def test_a_checkpoint_says_the_classes():
    checkpoint = {}
    training().on_save_checkpoint(checkpoint)
    assert checkpoint[KEY]["classes"] == list(CLASSES)
    assert checkpoint[KEY]["category_ids"] == [3, 7]


def test_the_average_is_what_is_evaluated():
    module = training(ema=0.5)
    start = module.model.rpn.conv.bias.detach().clone()
    module.average.update_parameters(module.model)  # the first update copies
    with torch.no_grad():
        module.model.rpn.conv.bias.add_(1)
    module.average.update_parameters(module.model)
    torch.testing.assert_close(module.detector.rpn.conv.bias, start + 0.5)
    plain = training()
    assert plain.detector is plain.model
