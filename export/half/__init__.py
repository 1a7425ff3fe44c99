"""Graphs in 16 bits: how they are made, what they compute on a GPU, what they cost in votes."""
