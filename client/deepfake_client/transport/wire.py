"""Requests on the wire: images to tensors, by the contract. Pure functions."""

import base64
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tritonclient.grpc import InferInput

from ..contract import contract
from ..images.items import EncodedImage, Item

PROBE = Item(
    path=None,
    data=base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAEAAAABACAAAAACPAi4CAAAAK0lEQVR42u3MMREAAAgEoNfkRjeEmwcBqMlNRyAQCAQCgUAgEAgEAsHzYAFA"
        "dAEArKmlZAAAAABJRU5ErkJggg=="
    ),
    box=(8.0, 8.0, 56.0, 56.0),
)
"""A grey square of 64×64 pixels, to ask for a real inference. Its face box spares the server a search."""


def build_inputs(images: Sequence[EncodedImage]) -> list[InferInput]:
    """The tensors of a request: IMAGE BYTES [N,1] and, where any image has a box, FACE_BOX FP32 [N,4].

    A row of NaN says that no box is supplied for that image.
    """
    encoded = np.empty((len(images), 1), dtype=np.object_)
    for row, image in enumerate(images):
        encoded[row, 0] = image.data
    inputs = [InferInput(contract.IMAGE, list(encoded.shape), "BYTES")]
    inputs[0].set_data_from_numpy(encoded)
    if any(image.box is not None for image in images):
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, which the server refuses by status
            boxes = np.array([image.box or (np.nan,) * 4 for image in images]).astype(np.float32)
        inputs.append(InferInput(contract.FACE_BOX, list(boxes.shape), "FP32"))
        inputs[1].set_data_from_numpy(boxes)
    return inputs


def build_search(images: Sequence[EncodedImage]) -> list[InferInput]:
    """The tensors of a request to the face finder: IMAGE BYTES [N,1], ATTEMPTS INT32 [N,1]."""
    inputs = [
        *build_inputs([replace(image, box=None) for image in images]),
        InferInput("ATTEMPTS", [len(images), 1], "INT32"),
    ]
    inputs[1].set_data_from_numpy(np.array([[image.attempts] for image in images], np.int32))
    return inputs


def build_decision_inputs(images: Sequence[EncodedImage], threshold: float | None) -> list[InferInput]:
    """The tensors of a request for verdicts alone: those of `build_inputs` and, where it is given, THRESHOLD."""
    inputs = build_inputs(images)
    if threshold is not None:
        inputs.append(InferInput(contract.THRESHOLD, [len(images), 1], "FP32"))
        inputs[-1].set_data_from_numpy(np.full((len(images), 1), threshold, np.float32))
    return inputs
