"""Two processes with half of the batch each give the losses and gradients of one with all of it."""

import os
import subprocess
import sys
import textwrap

import torch

SCRIPT = textwrap.dedent(
    """
    import sys, torch, torch.distributed as dist
    from detection import build_model
    from detection.config import AnchorConfig, ModelConfig, RoIConfig, RPNConfig

    class First:
        def __init__(self, quota, foreground):
            self.quota, self.foreground = quota, foreground
        def __call__(self, label, generator=None):
            fg = (label == 1).nonzero()[:, 0][: self.foreground]
            index = torch.cat((fg, (label == 0).nonzero()[:, 0][: self.quota - len(fg)]))
            return index, label[index]

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = ModelConfig(backbone="resnet18", norm="frozen_bn", freeze_at=0, anchors=AnchorConfig((32, 64)),
                         rpn=RPNConfig(after_nms_train=25), roi=RoIConfig(resolution=4))
    model = build_model(config, 3).double()
    model.roi_head.at_once = 7  # so that the head works in parts
    model.rpn.sampler = First(64, 32)
    model.roi_head.sampler = First(32, 8)  # 25 proposals: the images bring different numbers of regions
    images = [torch.rand(3, 64, 96, dtype=torch.float64) for _ in range(2)]
    targets = [{"boxes": torch.tensor([[5., 5, 50, 60], [10, 10, 90, 40]]).double(), "labels": torch.tensor([1, 2])},
               {"boxes": torch.zeros(0, 4).double(), "labels": torch.zeros(0, dtype=torch.int64)}]
    mode, out = sys.argv[1:]
    if mode == "two":
        dist.init_process_group("gloo")
        rank = dist.get_rank()
        images, targets = [images[rank]], [targets[rank]]
    losses = model(images, targets)
    total = sum(losses.values())
    total.backward()
    result = {"total": total.detach(), **{n: p.grad for n, p in model.named_parameters()}}
    if mode == "two":
        for value in result.values():
            dist.all_reduce(value)
            value /= 2
        if dist.get_rank() == 0:
            torch.save(result, out)
        dist.destroy_process_group()
    else:
        torch.save(result, out)
    """
)


def test_two_equal_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([sys.executable, script, "one", tmp_path / "one.pth"], check=True, env=env)
    subprocess.run([*launch, script, "two", tmp_path / "two.pth"], check=True, env=env)
    one, two = (torch.load(tmp_path / f"{n}.pth", weights_only=True) for n in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
