"""Score images with NVIDIA's tritonclient alone. Needs: pip install 'tritonclient[grpc]'."""

import argparse
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("images", type=Path, nargs="+", help="at most 32")
parser.add_argument("--url", default="localhost:8001", help="HOST:PORT of the server")
options = parser.parse_args()

batch = np.array([[path.read_bytes()] for path in options.images], dtype=object)  # [N, 1]
image = triton.InferInput("IMAGE", list(batch.shape), "BYTES")
image.set_data_from_numpy(batch)
with triton.InferenceServerClient(options.url) as client:
    answer = client.infer("deepfake_detector", [image])

rows = zip(options.images, answer.as_numpy("SCORE"), answer.as_numpy("STATUS"), strict=True)
for path, score, status in rows:
    print(path, status[0].decode(), score[0])
