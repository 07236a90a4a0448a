"""Detect on an array, a PIL image and a path, and the same with the command: python predict.py best.pth photo.png"""
import json
import sys

import numpy as np
from PIL import Image

import resdet
from detection.cli import run

weights, path = sys.argv[1:]
predictor = resdet.Predictor(weights, device="cpu", precision="float32")
answers = [predictor(image) for image in (np.asarray(Image.open(path).convert("RGB")), Image.open(path), path)]
run("predict", ["--weights", weights, "--device", "cpu", "--precision", "float32", "--output", "out", path])
command = [row["bbox"] for row in json.load(open("out/detections.json", encoding="utf-8"))["annotations"]]
print(all([row["bbox"] for row in answer.to_coco(1)] == command for answer in answers), len(command))
