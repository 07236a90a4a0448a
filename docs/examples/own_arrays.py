"""Train on arrays of your own, with a callback and a logger of Lightning."""
import numpy as np
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

import resdet

corners = np.random.default_rng(0).integers(0, 60, (8, 2)).tolist()
files, boxes = [f"{i}.png" for i in range(8)], [[[x, y, x + 40, y + 40]] for x, y in corners]
for file, (x, y) in zip(files, corners, strict=True):
    Image.fromarray(np.pad(np.full((40, 40, 3), 220, np.uint8), ((y, 60 - y), (x, 60 - x), (0, 0)))).save(file)
squares = resdet.Annotations.from_arrays(files, boxes, [[1]] * 8, ["square"])
keys = ["pretrain.iterations=0", "model.norm=gn", "model.freeze_at=0", "solver.max_iter=20", "solver.log_every=5"]
run = resdet.train("quickstart.yaml", keys, output="squares", train_set=squares, val_set=squares,
                   callbacks=[LearningRateMonitor("step")], loggers=[CSVLogger("squares", name="csv")])  # fmt: skip
print(run.output, run.metrics["AP50"])
