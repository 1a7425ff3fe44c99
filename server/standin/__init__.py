"""What stands in for NVIDIA's container: tritonserver from PyPI's wheels, and backends in Python for its C++ ones.

Drop this folder where NVIDIA's container runs: the launcher needs only a `server.supervision.process.Installation`.

- `layout`, `install`: the wheels laid out under the checkout's `.triton/`; `patches` mends two faults.
- `environment`, `checks`: what the server runs in, and what it needs of the machine.
- `backends`: ONNX Runtime and OpenVINO, served by Triton's Python backend.
"""
