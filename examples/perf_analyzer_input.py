"""Write images as NVIDIA's perf_analyzer reads them: each as base64 of its length in four bytes and its bytes."""

import argparse
import base64
import json
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--output", type=Path, default=Path("build/perf_analyzer.json"))
options = parser.parse_args()

requests = []
for path in sorted(options.folder.glob("*.png")):
    data = path.read_bytes()
    framed = len(data).to_bytes(4, "little") + data
    requests.append({"IMAGE": {"b64": base64.b64encode(framed).decode(), "shape": [1]}})
options.output.parent.mkdir(parents=True, exist_ok=True)
options.output.write_text(json.dumps({"data": requests}))
print(f"wrote {len(requests)} images to {options.output}")
