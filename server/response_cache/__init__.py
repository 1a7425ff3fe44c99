"""Repeated images are answered from memory: a step in front of each ensemble, where `--response-cache` asks for it."""
