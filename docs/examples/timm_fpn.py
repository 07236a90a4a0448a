"""A ConvNeXt of timm's under a feature pyramid: trained, saved, loaded, the same detections."""
import numpy as np

import resdet

keys = ["pretrain.iterations=0", "data.train=20", "data.val=2", "data.short_side=[96]", "data.workers=0"]
keys += ["model.backbone=timm://convnext_atto", "model.architecture=fpn", "model.norm=bn", "model.freeze_at=0"]
keys += ["model.anchors.sizes=[16,32,64,128,256]", "model.roi.resolution=7", "model.roi.score_threshold=0.01"]
run = resdet.train("quickstart.yaml", [*keys, "solver.max_iter=50"], output="timm_fpn")  # --weights timm://… where online
image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
first, second = (resdet.Predictor(run.output / name, device="cpu")(image) for name in ("best.pth", "last.pth"))
print(len(first), "detections,", "equal" if np.array_equal(first.boxes, second.boxes) else "different")
