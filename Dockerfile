# syntax=docker/dockerfile:1
# NVIDIA's tritonserver with what this repository's Python steps need. Not verified on this project's machines.
#
# docs/explanation/releases.md says what 26.11 mends, and what of this project it makes needless. Engines are built in the
# stage `export` below, with the TensorRT of the same image: an engine runs in no other version. Go on to a later release
# by RELEASE, and build the engines again.
#
# The release is named by its tag, as its digest could not be asked for here. Before the first build, `make image` asks the
# registry for it and writes it into DIGEST (`make pin-image`): from then on the content is pinned.
ARG RELEASE=26.11
ARG DIGEST=
FROM nvcr.io/nvidia/tritonserver:${RELEASE}-py3${DIGEST} AS serve

# The stub of the Python backend runs the system's Python, which is this image's own to change.
ENV PIP_BREAK_SYSTEM_PACKAGES=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/deepfake-detector
COPY locks locks
# What builds the two packages goes into a folder of its own, and stays out of the system's Python.
RUN python3 -m pip install --require-hashes --requirement locks/serve.txt \
    && python3 -m pip install --require-hashes --requirement locks/build.txt --target /opt/build
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY ensemble ensemble
COPY degradation degradation
COPY networks networks
COPY export export
COPY server server
COPY benchmarks benchmarks
COPY training training
COPY forensics forensics
RUN PYTHONPATH=/opt/build python3 -m pip install --no-deps --no-build-isolation ./client .

# triton-server, the image's own user; the models are mounted, and never written to.
USER 1000:1000
WORKDIR /tmp
ENV HOME=/tmp
EXPOSE 8000 8001 8002
VOLUME /models

# A real inference. Since 26.04 the ready end-points notice a dead step too, but not a GPU that hangs.
HEALTHCHECK --interval=30s --timeout=90s --start-period=15m --retries=2 CMD ["deepfake-client", "info"]

ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "python3", "-m", "server.container"]
# Further options, such as --model-config-name=tensorrt.
CMD []

# What makes the models: the same TensorRT, with its Python face, and the exporter. Run with the checkout mounted.
FROM serve AS export
# hadolint ignore=DL3002
USER root
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# torch and TensorRT have no hashes here: which build is right depends on the image's CUDA.
RUN version=$(basename "$(find / -xdev -name 'libnvinfer.so.*.*.*' -print -quit)" | cut -d. -f3-5) \
    && cuda=$(basename "$(find / -xdev -name 'libcudart.so.*.*' -print -quit)" | cut -d. -f3) \
    && cd /opt/deepfake-detector \
    && python3 -m pip install --require-hashes --requirement locks/export.txt \
    && python3 -m pip install --requirement locks/torch.txt \
    # Its libraries are in the image: only what makes a Python module of them.
    && python3 -m pip install --no-deps "tensorrt-cu${cuda}==${version}.*" "tensorrt-cu${cuda}-bindings==${version}.*"
USER 1000:1000
WORKDIR /workspace
HEALTHCHECK NONE
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "python3", "-m", "export"]
CMD ["--help"]

FROM serve
