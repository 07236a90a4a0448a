"""A ResNet of timm's, a variant that torchvision lacks, split at conv4_x."""
import torch

import resdet
from detection import FasterRCNN
from backbone.adapters.foreign import timm_backbone

net = timm_backbone("timm://resnet26d", architecture="c4", norm="bn", freeze_at=0)
model = FasterRCNN(net, num_classes=2, rpn={"after_nms_train": 50})
images = [torch.rand(3, 96, 128)]
losses = model(images, [{"boxes": torch.tensor([[10.0, 10, 60, 70]]), "labels": torch.tensor([2])}])
print({name: round(float(loss), 3) for name, loss in losses.items()})
print(type(model.roi_head.head).__name__, model.eval()(images)[0]["boxes"].shape, resdet.__version__)
