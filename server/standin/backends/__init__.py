"""Triton backends in Python that stand in for NVIDIA's C++ ones: a folder each, with its `model.py`."""
