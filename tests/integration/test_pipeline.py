"""The served ensemble gives what the plain pipeline gives."""

import numpy as np
import onnxruntime
import pytest
from deepfake_client import DetectorClient

from ensemble.faces.haar import HaarDetector
from ensemble.images import Limits, read_image
from ensemble.pipeline import score
from ensemble.streams import STREAMS
from tests.conftest import Server
from tests.golden import IMAGES

pytestmark = pytest.mark.server


def test_the_served_ensemble_is_the_pipeline(server: Server) -> None:
    paths = IMAGES[:6]
    sessions = {
        stream.name: onnxruntime.InferenceSession(server.repository / stream.name / "1" / "model.onnx")
        for stream in STREAMS
    }
    networks = {
        name: lambda pixels, session=session: session.run(["LOGITS"], {"PIXELS": pixels})[0]
        for name, session in sessions.items()
    }
    scored = score([read_image(path.read_bytes(), Limits()) for path in paths], networks, HaarDetector())
    with DetectorClient(server.url) as client:
        verdicts = [client.score(path) for path in paths]
    for index, (path, verdict) in enumerate(zip(paths, verdicts, strict=True)):
        assert verdict.status == "ok", path
        assert verdict.score == pytest.approx(float(scored.result.score[index]), abs=1e-6), path
        assert verdict.probability == pytest.approx(float(scored.result.probability[index]), abs=1e-5), path
        served = [verdict.streams[stream.name].probability for stream in STREAMS]
        np.testing.assert_allclose(served, scored.result.stream_probabilities[index], atol=1e-5)
        assert verdict.face is not None
        assert verdict.face.source == scored.faces[index].source, path
