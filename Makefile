# `make` alone prints the targets.
.DEFAULT_GOAL := help
.PHONY: help setup demo test export serve bench check clean

PYTHON ?= python3
BIN := .venv/bin
WEIGHTS ?= weights
REPOSITORY ?= model_repository
READY := .venv/.ready

help:  ## print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(READY)  ## make .venv with everything in it, and lay out tritonserver and perf_analyzer in .triton

$(READY): pyproject.toml client/pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python {v[0]}.{v[1]} is too old: 3.11 or later is needed; give one with make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable 'client[ray,spark]' --editable '.[export,forensics,test,dev]'
	$(BIN)/python -m server install
	@touch $@

demo: setup  ## export seeded weights, serve them, score sample photographs, print the table, stop
	scripts/demo

test: setup  ## run the tests, against the real server
	scripts/test

check: setup  ## lint and type-check
	scripts/check

export: setup  ## turn the checkpoints in WEIGHTS=dir into the models of REPOSITORY=dir
	$(BIN)/python -m export --weights $(WEIGHTS) --repository $(REPOSITORY)

serve: setup  ## serve REPOSITORY=dir until Ctrl-C
	$(BIN)/python -m server --model-repository $(REPOSITORY)

bench: setup  ## measure the ensemble over gRPC against the same functions in one process
	$(BIN)/python -m benchmarks

clean:  ## remove what the other targets made, the weights excepted
	rm -rf .venv .triton demo build *.egg-info client/*.egg-info
