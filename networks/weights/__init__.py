"""Weights in files: strictly read checkpoints, random ones, stand-ins, and the manifest of what a folder holds."""
