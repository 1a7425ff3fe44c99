"""Measurements on an NVIDIA GPU."""

IMAGE = "deepfake-detector"
"""The container image that `make image` builds."""
