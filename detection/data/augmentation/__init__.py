"""Augmentation that a configuration asks for: libraries' transforms by name, scale jitter, mosaic and mixup."""
