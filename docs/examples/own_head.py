"""A head of your own in place of conv5_x, trained, and loaded again."""
from torch import nn

import resdet
from backbone import resnet18
from detection import FasterRCNN

head = nn.Sequential(nn.Conv2d(256, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
head.out_channels = 64  # [R, 256, 7, 7] -> [R, 64, 1, 1]
model = FasterRCNN(resnet18(norm="bn"), num_classes=6, head=head, roi={"resolution": 7})
keys = ["pretrain.iterations=0", "data.train=8", "data.val=2", "data.workers=0", "solver.max_iter=5"]
run = resdet.train("quickstart.yaml", keys, output="own_head", model=model)
loaded, names = resdet.load_detector(run.best, model=model)
print(names, run.metrics["AP"])
