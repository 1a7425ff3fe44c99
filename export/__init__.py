"""Checkpoints to ONNX models in a Triton model repository (`python -m export --help`).

`export_stream` does one stream without the command line; what can go wrong is in `export.errors`.
"""

from export.errors import ExportError
from export.exporters.stream_export import StreamExport, export_stream

__all__ = ["ExportError", "StreamExport", "export_stream"]
