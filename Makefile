# `make` alone prints the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo learn weights test check check-engines docs lock sbom audit export serve bench bench-compare pin-image pinned image engines serve-gpu bench-gpu gpu-check clean

BIN := .venv/bin
WEIGHTS ?= weights
REPOSITORY ?= model_repository
TARGET ?= onnx
SET ?= test
export PYTHON TORCH_INDEX

help:  ## print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: .venv/.$(SET)  ## install into .venv and .triton; SET=serve, export, forensics, training, bench, docs or test, which is all

# What a set needs is in its lock file; all sets agree on every release, so that one may follow another.
.venv/.%: locks/%.txt pyproject.toml client/pyproject.toml
	@scripts/install $*

demo: .venv/.export  ## export the stand-in weights, serve them, score sample photographs, print the table, stop
	scripts/demo

weights: .venv/.export  ## fetch the published weights into WEIGHTS=dir, or verify those there
	$(BIN)/python -m export.download --weights $(WEIGHTS)

test: .venv/.test  ## run the tests, against the real server
	scripts/test

check: .venv/.test  ## lint and type-check
	scripts/check

check-engines: .venv/.tensorrt-check  ## build all networks' engines without a GPU, by TensorRT for RTX; PRESET=giant: full size
	$(BIN)/python -m export.tensorrt $(if $(PRESET),--preset $(PRESET))

docs: .venv/.test .venv/.docs  ## build the documentation into build/site
	$(BIN)/mkdocs build --strict --quiet

lock: .venv/.test  ## resolve pyproject.toml anew into locks/
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lock

sbom: .venv/.test  ## say what is installed, in CycloneDX, in build/sbom.json
	scripts/sbom

audit: .venv/.test  ## ask whether what is locked has known vulnerabilities
	scripts/audit || [ $$? = 3 ]

export: .venv/.export  ## turn the checkpoints in WEIGHTS=dir into the models of REPOSITORY=dir; TARGET=tensorrt adds engines
	$(BIN)/python -m export --weights $(WEIGHTS) --repository $(REPOSITORY) --target $(TARGET) $(if $(PRECISION),--precision $(PRECISION))

serve: .venv/.serve  ## serve REPOSITORY=dir until Ctrl-C; CONFIG=openvino: faster on a CPU, not exact
	$(BIN)/python -m server --model-repository $(REPOSITORY) $(if $(CONFIG),--model-config-name $(CONFIG))

learn: .venv/.bench  ## train stand-ins on sample photographs, serve them, measure them on photographs never seen; QUICK=1: two minutes
	$(BIN)/python -m benchmarks.learn $(if $(QUICK),--quick)

bench: .venv/.bench  ## measure the ensemble under load and against other ways to do the same work
	$(BIN)/python -m benchmarks

bench-compare: .venv/.bench  ## tell what changed beyond noise from OLD=result to NEW=result
	$(BIN)/python -m benchmarks compare $(OLD) $(NEW)

pin-image:  ## pin the container's base image to its digest, where Docker is
	scripts/pin-image

pinned:
	@grep -q '^ARG DIGEST=@' Dockerfile || scripts/pin-image

image: pinned  ## build the container image of the detector for NVIDIA GPUs
	docker build --tag deepfake-detector .

engines: pinned  ## build TensorRT engines from WEIGHTS=dir into REPOSITORY=dir, on this machine's GPU, in the container
	@test -d $(WEIGHTS) || { echo "no folder $(WEIGHTS) with checkpoints: run make weights, or give WEIGHTS=dir" >&2; exit 2; }
	mkdir -p $(REPOSITORY)
	docker build --tag deepfake-detector-export --target export .
	docker run --rm --gpus all --user "$$(id -u):$$(id -g)" --workdir $(CURDIR) \
		$(foreach dir,$(CURDIR) $(abspath $(WEIGHTS) $(REPOSITORY)),--volume $(dir):$(dir)) \
		deepfake-detector-export --weights $(abspath $(WEIGHTS)) --repository $(abspath $(REPOSITORY)) \
		--target tensorrt --precision fp16

serve-gpu: pinned  ## serve REPOSITORY=dir on a GPU in the container, with Prometheus and Grafana; CONFIG=tensorrt: the engines
	CONFIG=$(CONFIG) REPOSITORY=$(abspath $(REPOSITORY)) docker compose up --build

bench-gpu: .venv/.bench image  ## measure full size on this machine's GPU, in the container
	$(BIN)/python -m benchmarks.gpu $(if $(or $(filter-out file,$(origin WEIGHTS)),$(wildcard $(WEIGHTS)/manifest.json)),--weights $(WEIGHTS)) --output benchmarks/results/gpu.json

gpu-check:  ## find out all that a machine with a GPU can tell in a quarter of an hour, offline; DRY=1: on a CPU
	scripts/gpu-check $(if $(DRY),--dry) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(OUTPUT),--output $(OUTPUT))

clean:  ## remove what the other targets made, the weights excepted
	rm -rf .venv .triton demo build *.egg-info client/*.egg-info
