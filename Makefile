# The commands of the README. `make demo` and `make test` need nothing but Python 3.11 and make.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

# A CPU machine wants PyTorch's CPU wheels: name their index in TORCH_INDEX to save gigabytes of CUDA.
TORCH ?= torch==2.13.0 torchvision==0.28.0
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Demo: a folder of your own, or the sample photographs.
IMAGES ?=
PHOTOS := build/photos
# Photographs in the public domain, taken from this package's wheel.
PHOTO_PACKAGE := scikit-image==0.26.0

.PHONY: demo test test-all lint bench bench-all export serve clean

demo: $(VENV)/.demo $(if $(IMAGES),,$(PHOTOS)/.made)
	$(BIN)/aesthetic export --weights auto --if-missing
	$(BIN)/aesthetic score $(or $(IMAGES),$(PHOTOS))
	@echo
	@echo "To keep the server running:  $(BIN)/aesthetic serve"
	@echo "and from another terminal:   $(BIN)/aesthetic score $(or $(IMAGES),$(PHOTOS)) --url grpc://127.0.0.1:8001"

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not long" $(PYTEST_ARGS)

test-all: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

export: $(VENV)/.demo
	$(BIN)/aesthetic export $(EXPORT_ARGS)

serve: $(VENV)/.demo
	$(BIN)/aesthetic serve $(SERVE_ARGS)

# QUICK=1: a small run, to look, not to claim.
OWN_IMAGES = $(if $(IMAGES),--images $(IMAGES))
BENCH = $(OWN_IMAGES) $(if $(QUICK),--quick)
CPU_PROFILES := fp32 bf16 int8
bench: $(VENV)/.test
	$(BIN)/aesthetic export --weights auto --if-missing --precision bf16 --precision int8 $(OWN_IMAGES)
	for profile in $(CPU_PROFILES); do \
	  $(BIN)/python benchmarks/serving.py --profile $$profile $(BENCH) $(BENCH_ARGS) || exit 1; done
	$(BIN)/python benchmarks/engines.py $(BENCH) $(ENGINES_ARGS)

# Every other figure of a CPU: about an hour and a half on two cores.
bench-all: bench
	$(BIN)/python benchmarks/preprocessing.py $(OWN_IMAGES)
	for profile in $(CPU_PROFILES); do \
	  $(BIN)/python benchmarks/latency.py --profile $$profile $(OWN_IMAGES) || exit 1; done
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/embeddings.py
	$(BIN)/python benchmarks/precision.py $(OWN_IMAGES)

clean:
	rm -rf $(VENV) build

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(firstword $(TORCH))
	$(PIP) install $(TORCH)
	@touch $@

# .demo and .test: the extras of those names, installed.
$(VENV)/.%: pyproject.toml | $(VENV)/.torch
	$(PIP) install --editable '.[$*]'
	@touch $@

$(PHOTOS)/.made: | $(VENV)/.torch
	$(PIP) install --no-deps --target build/photo-package --upgrade $(PHOTO_PACKAGE)
	mkdir -p $(PHOTOS)
	cd build/photo-package/skimage/data && cp astronaut.png chelsea.png coffee.png \
	  hubble_deep_field.jpg rocket.jpg $(abspath $(PHOTOS))
	@touch $@
