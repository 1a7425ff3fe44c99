"""Launch NVIDIA's tritonserver and keep it answering.

- `cli`, `refusals`: the command line, `python -m server`, and what it refuses.
- `access`: which of tritonserver's protocols are open.
- `defaults`: the options that it is started with, by the launcher and in NVIDIA's `container`.
- `repository`: what a model repository holds, as far as a launcher must know.
- `supervision`: one server process, one real inference, the judgement, and the loop.
- `diagnosis`: what a start needs, each check with its fix; `doctor` shows them all.
- `standin`: what stands in for NVIDIA's container; it can be dropped whole.

This package imports nothing else of the project.
"""
