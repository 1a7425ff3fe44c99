"""TensorRT's Python API as far as Polygraphy's builder uses it: what the real one cannot be had for here.

An "engine" is the ONNX file's path; building it records what was asked for. Running one is not faked.
"""

import enum
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock


class FlagsOf10(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class FlagsOf11(enum.IntEnum):
    """All networks have explicit batches and strong types; the flag is there, for programs that give it."""

    STRONGLY_TYPED = 0


class Cache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def combine(self, other: "Cache", ignore_mismatch: bool) -> bool:
        self.content = b"|".join(part for part in (other.content, self.content) if part)
        return True

    def serialize(self) -> "Cache":
        return self

    def __enter__(self) -> bytes:
        return self.content

    def __exit__(self, *error: object) -> None:
        pass


BUILDER_FLAGS_GONE = (
    *("FP16", "BF16", "FP8", "FP4", "INT8", "INT4"),
    *("OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS", "REJECT_EMPTY_ALGORITHMS", "WEIGHTLESS"),
)
CONFIG_GONE = (
    *("int8_calibrator", "set_calibration_profile", "get_calibration_profile", "algorithm_selector"),
    *("set_quantization_flag", "get_quantization_flag", "clear_quantization_flag", "quantization_flags"),
)
"""What TensorRT 11 has no more (NVIDIA's migration guide): to ask for it is an error there, and here."""


def tensorrt(version: str) -> Any:
    """A module `tensorrt` of some version; its `builds` holds what was asked for."""
    module = MagicMock(name="tensorrt", spec=None)
    module.__version__ = version
    since_11 = int(version.partition(".")[0]) >= 11
    for name in BUILDER_FLAGS_GONE if since_11 else ():
        delattr(module.BuilderFlag, name)
    module.builds = []

    class Logger:
        def __init__(self, *arguments: object) -> None:
            pass

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, tuple[object, ...]] = {}

        def set_shape(self, name: str, *shapes: object) -> None:
            self.shapes[name] = shapes

        def get_shape(self, name: str) -> list[object]:
            return list(self.shapes[name])

        def __bool__(self) -> bool:
            return True

    class Builder:
        def __init__(self, logger: object) -> None:
            pass

        def create_network(self, flags: int) -> Any:
            network = MagicMock(num_inputs=1, num_layers=0, num_outputs=0, flags=flags)
            network.get_input.return_value = types.SimpleNamespace(
                name="PIXELS", is_shape_tensor=False, shape=(-1, 252, 252, 3), dtype="uint8"
            )
            network.__iter__.return_value = iter(())
            return network

        def create_builder_config(self) -> Any:
            config = MagicMock(profiles=[])
            config.create_timing_cache.side_effect = Cache
            config.add_optimization_profile.side_effect = config.profiles.append
            config.get_timing_cache.return_value = Cache(b"measured")
            config.num_optimization_profiles = 1
            config.int8_calibrator = None
            for name in CONFIG_GONE if since_11 else ():
                delattr(config, name)
            return config

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Any, config: Any) -> bytes:
            module.builds.append(
                {
                    "flags": network.flags,
                    "profiles": [profile.shapes for profile in config.profiles],
                    "cache": config.set_timing_cache.call_args.args[0].content,
                    "builder_flags": [call.args for call in config.set_flag.call_args_list],
                }
            )
            return bytes(Path(network.path).resolve())

    class OnnxParser:
        num_errors = 0

        def __init__(self, network: Any, logger: object) -> None:
            self.network = network

        def parse_from_file(self, path: str) -> bool:
            self.network.path = path
            return True

    module.ILogger = module.Logger = Logger
    module.Builder, module.OnnxParser = Builder, OnnxParser
    module.NetworkDefinitionCreationFlag = FlagsOf11 if since_11 else FlagsOf10
    return module
