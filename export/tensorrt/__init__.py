"""TensorRT engines from the exported models."""
