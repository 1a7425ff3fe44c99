"""Attacks on endpoints: what should not be reached at all."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
from tritonclient.utils import InferenceServerException

from benchmarks.attacks.finding import Finding
from benchmarks.attacks.target import (
    ENSEMBLE,
    OK,
    PHOTOGRAPH,
    SHARED_MEMORY,
    Target,
    column,
    flood,
    post,
    seconds_until_served,
    tensor,
)

NESTED = 400_000
NOBODY = 65534
STREAMS = ("GLOBAL_TEXTURE", "LOCAL_FACIAL", "SEMANTIC_FUSION")
_SEND = """
import os, socket, sys
os.setgroups([]); os.setresgid({nobody}, {nobody}, {nobody}); os.setresuid({nobody}, {nobody}, {nobody})
sent = 0
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.setblocking(False)
    for name in sys.argv[1:]:
        for content in (b"", b"x", bytes(8), bytes([255] * 8), bytes(100)):
            try:
                sender.sendto(content, "\\0" + name)
                sent += 1
            except OSError:
                pass
print(sent)
"""


def shared_memory_registration(target: Target) -> Finding:
    """Registers a region of another process as a server's input, over gRPC and HTTP."""
    region = SHARED_MEMORY / "deepfake_attack"
    region.write_bytes(b"secret of another process")
    try:
        with triton.InferenceServerClient(target.url) as client:
            try:
                client.register_system_shared_memory("stolen", f"/{region.name}", 16)
                over_grpc = True
            except InferenceServerException:
                over_grpc = False
        body = json.dumps({"key": f"/{region.name}", "offset": 0, "byte_size": 16}).encode()
        over_http = post(target, "/v2/systemsharedmemory/region/stolen2/register", body) == 200
    finally:
        region.unlink()
    return Finding({"protocols open, of gRPC and HTTP": (over_grpc + over_http, "")})


def model_control(target: Target) -> Finding:
    """Reads the index of the model repository, over gRPC and HTTP."""
    with triton.InferenceServerClient(target.url) as client:
        try:
            client.get_model_repository_index()
            over_grpc = True
        except InferenceServerException:
            over_grpc = False
    over_http = post(target, "/v2/repository/index", b"") == 200
    return Finding({"protocols open, of gRPC and HTTP": (over_grpc + over_http, "")})


def nested_json(target: Target) -> Finding:
    """Sends 400,000 opening brackets as the body of an inference over HTTP."""
    before = target.processes()
    status = post(target, f"/v2/models/{ENSEMBLE}/infer", b"[" * NESTED)
    time.sleep(2)
    return Finding({"processes of the server that ended": (len(before - target.processes()), "")}, f"HTTP {status}")


def bad_datagrams(target: Target) -> Finding:
    """Sends datagrams of every size, as another user, to the sockets without a file that the server listens on."""
    lines = Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()
    names = [line.split()[-1].removeprefix("@") for line in lines if "@deepfake" in line]
    sent = subprocess.run(
        [sys.executable, "-c", _SEND.format(nobody=NOBODY), *names], capture_output=True, text=True, check=True
    )
    answers = flood(target, 60, 8)
    return Finding(
        {
            "datagrams taken": (int(sent.stdout), ""),
            "requests of 8 images served after them, of 60": (sum(answer == OK for answer, _ in answers), ""),
        }
    )


def forged_permits(target: Target) -> Finding:
    """Calls the last step with high permits during a flood of 60 requests of 8 images, of which 32 fit."""
    zeros = np.zeros((1, 2), np.float32)
    inputs = [tensor(f"{name}_LOGITS", zeros) for name in STREAMS]
    with triton.InferenceServerClient(target.url) as voter:
        (permit,) = (each.name for each in voter.get_model_metadata("voter").inputs if each.datatype == "INT64")
    inputs += [tensor("IMAGE_STATUS", column([b"ok"])), tensor(permit, np.array([[2**62]], np.int64))]
    images = [tensor("IMAGE", column([PHOTOGRAPH] * 8))]

    async def one(client: aio.InferenceServerClient, number: int) -> bool:
        await asyncio.sleep(number * 0.02)
        try:
            await client.infer("voter", inputs)
            await client.infer(ENSEMBLE, images, client_timeout=300)
        except InferenceServerException:
            return False
        return True

    async def all_of_them() -> int:
        async with aio.InferenceServerClient(target.url) as client:
            return sum(await asyncio.gather(*(one(client, number) for number in range(60))))

    return Finding({"requests of 8 images admitted, of 60": (asyncio.run(all_of_them()), "")})


def permits_of_the_first_step(target: Target) -> Finding:
    """Calls the first step by its name, 12 times for 32 images, and takes all that it gives."""
    with triton.InferenceServerClient(target.url) as client:
        for _ in range(12):
            try:
                client.infer("preprocess", [tensor("IMAGE", column([PHOTOGRAPH] * 32))], client_timeout=120)
            except InferenceServerException:
                break
    return Finding({"an image is served again after": (seconds_until_served(target), "s")})
