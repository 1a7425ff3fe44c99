"""NVIDIA's tritonserver without Docker: install it, launch it, keep it answering.

The folder, in the order in which things happen:

- `layout`, `install`: the PyPI wheels laid out under the checkout's `.triton/`.
- `repository`, `checks`: what a start needs, each check with its fix; `doctor` shows them all.
- `process`, `probe`, `health`, `supervisor`: one server process, one real inference, the judgement, and the loop.
- `cli`: the command line, `python -m server`.
- `backends/onnxruntime`: the backend that serves ONNX files inside that server.

This package imports nothing else of the project.
"""
