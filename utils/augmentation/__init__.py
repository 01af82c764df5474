"""Augmentation of training rows by replacing words; run it as `python -m utils.data_augmentation`."""
