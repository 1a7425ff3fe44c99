"""Where things lie in a model repository."""

from pathlib import Path

SKELETON = Path(__file__).resolve().parents[1] / "model_repository"
"""The repository in the checkout: the tracked files that every other one is laid out from."""

GENERATED = ("*.onnx", "*.onnx.data", "*.plan", "*.json", "*.timing", "*.timing.lock", "__pycache__", ".staging-*")
"""What exports and servers write into a repository; everything else is its skeleton."""

CONFIGURATIONS = Path(__file__).with_name("configurations")
"""Of the models in `networks.faces.FACE_MODELS`, which are not in the checkout's repository: NAME.pbtxt is the model's
config.pbtxt, NAME.OTHER.pbtxt its configs/OTHER.pbtxt."""

PROVENANCE = Path("provenance/1/provenance.json")
"""Tells clients which weights give the verdicts."""

VERSION = "1"
"""Folder of a model that holds its files."""

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
"""Weights that lie beside the graph."""

FUSED_FILE = "model.fused.onnx"

ENGINE_FILE = "model.plan"
ENGINE_MANIFEST = "model.plan.json"
"""What an engine was built with; the server's doctor reads it."""

LOADED_FILES = (MODEL_FILE, FUSED_FILE, ENGINE_FILE)
"""What tritonserver loads of a model."""
