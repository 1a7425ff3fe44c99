"""Triton model that answers which weights the repository holds: the JSON that the export left beside this file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Reads `provenance.json` once, and warns where the weights are seeded stand-ins."""

    def initialize(self, args: dict[str, str]) -> None:
        path = Path(args["model_repository"]) / args["model_version"] / "provenance.json"
        self._text = path.read_text(encoding="utf-8")
        provenance = json.loads(self._text)
        if provenance["untrained"]:
            pb_utils.Logger.log_warn("UNTRAINED weights: every score of this server is meaningless")
        if note := provenance.get("stand_in"):
            pb_utils.Logger.log_warn(f"STAND-IN weights: {note}")

    def execute(self, requests: list[Any]) -> list[Any]:
        tensor = pb_utils.Tensor("PROVENANCE", np.array([self._text], np.object_))
        return [pb_utils.InferenceResponse([tensor]) for _ in requests]
