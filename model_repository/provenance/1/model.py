"""Triton model that answers what the scores depend on: the JSON that the export left beside it, and the framing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2


class TritonPythonModel:
    """Reads `provenance.json` and the framing once, and warns where the weights are seeded stand-ins."""

    def initialize(self, args: dict[str, str]) -> None:
        model = Path(args["model_repository"])
        exported = (model / args["model_version"] / "provenance.json").read_text(encoding="utf-8")
        provenance = json.loads(exported) | _framing(model.parent / "preprocess" / "config.pbtxt")
        self._text = json.dumps(provenance, indent=2)
        if provenance["untrained"]:
            pb_utils.Logger.log_warn("UNTRAINED weights: every score of this server is meaningless")
        if note := provenance.get("stand_in"):
            pb_utils.Logger.log_warn(f"STAND-IN weights: {note}")

    def execute(self, requests: list[Any]) -> list[Any]:
        tensor = pb_utils.Tensor("PROVENANCE", np.array([self._text], np.object_))
        return [pb_utils.InferenceResponse([tensor]) for _ in requests]


def _framing(config: Path) -> dict[str, Any]:
    parameters = text_format.Parse(config.read_text(encoding="utf-8"), model_config_pb2.ModelConfig()).parameters
    framing = parameters["framing"].string_value
    margin = {"face_margin": float(parameters["face_margin"].string_value)} if framing == "face" else {}
    return {"framing": framing, **margin}
