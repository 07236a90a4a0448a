"""A detector's training step: its losses, gradient accumulation over regions, and what is saved."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from backbone.blocks import checkpoint_blocks
from detection.checkpoint.detector import backbone_parts, save_detector
from detection.checkpoint.metadata import KEY, Classes, describe
from detection.config import Config
from detection.data.loader import Batch, float_images, to_device
from detection.modeling.faster_rcnn import FasterRCNN
from detection.training.accumulation import REGION_LOSSES, MicroBatch, frozen_statistics, region_weights
from detection.training.loop import TrainingModule
from detection.training.optimizer import NORMS
from detection.training.replay import save_step
from detection.utils.precision import autocast_dtype, precision_name


class DetectionModule(TrainingModule):
    """A detector's training.

    Args:
        model: the detector.
        config: the experiment; the solver's part is read here.
        classes: go into every checkpoint.
        output: as of :class:`TrainingModule`.
        file_of: the file of an image's index, for messages.
        module: what the model is if the configuration did not build it (:func:`describe`).
    """

    def __init__(
        self,
        model: FasterRCNN,
        config: Config,
        classes: Classes,
        output: Path | None = None,
        file_of: Callable[[int], str] = str,
        module: str | None = None,
    ) -> None:
        if config.solver.checkpoint_trunk:  # before the average copies the model, which never needs gradients
            checkpoint_blocks(model.trunk)
        super().__init__(model, config.solver, config.seed, output)
        self.config, self.classes, self.file_of, self.module = config, classes, file_of, module
        self.micro_batches: list[MicroBatch] = []

    @property
    def detector(self) -> FasterRCNN:
        """The weights to evaluate and to use."""
        return cast(FasterRCNN, self.eval_model)

    def parts_to_compile(self) -> Iterable[nn.Module]:
        model = cast(FasterRCNN, self.model)
        return model.trunk, model.rpn, model.roi_head.head

    def pretrained_modules(self) -> Iterable[nn.Module]:
        trunk, *head = backbone_parts(cast(FasterRCNN, self.model))
        # conv5_x with frozen norms stands on pretrained weights; with norms that learn it may begin at random
        return (trunk, *(part for part in head if not any(isinstance(m, NORMS) for m in part.modules())))

    def compute_losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.model(float_images(batch), batch.targets, generator=generator)
        if self.solver.accumulate == 1:
            return losses
        sampled = cast(FasterRCNN, self.model).roi_head.sampled
        assert sampled is not None
        self.micro_batches.append(MicroBatch(batch, generator.initial_seed(), sampled))
        if len(self.micro_batches) < self.solver.accumulate:
            return losses
        micro_batches, self.micro_batches = self.micro_batches, []
        weights = region_weights(micro_batches)
        if weights is None or self.skip_step:  # the gradients of a skipped step are discarded
            return losses
        del losses  # with its activations: one micro-batch's are held at a time
        return self._reweighted(micro_batches, weights)

    def _reweighted(self, micro_batches: list[MicroBatch], weights: list[float]) -> dict[str, Tensor]:
        """Correct the gradients of the earlier micro-batches, and return the last one's losses (accumulation.py)."""
        for micro_batch, weight in zip(micro_batches[:-1], weights[:-1], strict=True):
            if weight == 1:
                continue
            losses = self._losses_again(micro_batch)
            missing = {name: losses[name] * ((weight - 1) / len(micro_batches)) for name in REGION_LOSSES}
            # within DDP's forward no hook waits for gradients: these join the sums that its backward sends
            self.scaled(torch.stack(list(missing.values())).sum()).backward()  # type: ignore[no-untyped-call]
            for name, value in missing.items():
                self.losses[name] = self.losses[name] + value.detach()
        losses = self._losses_again(micro_batches[-1])
        return {name: value * weights[-1] if name in REGION_LOSSES else value for name, value in losses.items()}

    def _losses_again(self, micro_batch: MicroBatch) -> dict[str, Tensor]:
        generator = torch.Generator(self.device).manual_seed(micro_batch.seed)
        batch = micro_batch.batch
        with frozen_statistics(self.model):
            losses: dict[str, Tensor] = self.model(float_images(batch), batch.targets, generator=generator)
        return losses

    def save_step(self, path: Path, batch: Batch, seed: int, losses: dict[str, Tensor]) -> str:
        files = [self.file_of(i) for i in batch.index]
        step = {
            "step": self.trainer.global_step + 1,
            "seed": seed,
            "precision": precision_name(autocast_dtype(self.solver.precision, self.device)),
            "files": files,
            "images": batch.images,
            "targets": batch.targets,
        }
        save_step(path, self.model, self.config, self.classes, step, losses, self.module)
        return f" on images {', '.join(files)}; batch and state saved to {path}, inspect with: resdet replay {path}"

    def save_weights(self, path: Path) -> None:
        save_detector(path, self.detector, self.config, self.classes, self.module)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = describe(self.config, self.classes, self.module).to_dict()

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return to_device(batch, device)
