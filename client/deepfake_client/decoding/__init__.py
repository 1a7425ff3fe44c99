"""Untrusted bytes meet native decoders here alone, in processes that may die: frames of videos, copies of images."""
