"""Splits of one annotated set into training, validation and test images, and small subsets of it."""
