"""Launch NVIDIA's tritonserver and keep it answering.

- `repository`, `checks`: what a start needs, each check with its fix; `doctor` shows them all.
- `process`, `probe`, `health`, `supervisor`: one server process, one real inference, the judgement, and the loop.
- `cli`: the command line, `python -m server`.
- `standin`: what stands in for NVIDIA's container; it can be dropped whole.

This package imports nothing else of the project.
"""
