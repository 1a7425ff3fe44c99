"""Networks as ONNX graphs, and ONNX Runtime on the CPU to try them."""
