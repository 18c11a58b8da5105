"""What lies on disk: images and masks, samples, sampling, checks."""

SPLITS = ("train", "val", "test")
"""Folders of a data set."""
FOLDERS = ("images", "semantic_masks", "instance_masks")  # the three folders of a split
