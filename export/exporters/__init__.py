"""From weights to validated ONNX models, for streams, face networks and other methods: one exporter for all."""
