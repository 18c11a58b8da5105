"""What lies on disk: images and masks, samples, sampling, checks."""

SPLITS = ("train", "val", "test")
"""Folders of a data set."""
