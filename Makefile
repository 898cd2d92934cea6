# make demo: translate the sample file.   make test: kernels compiled for every chip, then the CPU
# test suite.   make lint: style.
# Everything is installed into .venv; `make clean` removes it and what the demo wrote.
.PHONY: demo test lint clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

IN_RANGE := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c '$(IN_RANGE)' 2>/dev/null && { echo $$p; break; }; done)

# On Linux PyPI's torch is a CUDA build of several gigabytes. A machine without an NVIDIA driver
# takes the CPU build from PyTorch's own index; if that cannot be reached, whatever pip finds.
# The range is pyproject.toml's (a test compares them).
TORCH := torch>=2.11,<2.14
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

demo: $(VENV)/.installed
	$(BIN)/hala-engine translate examples/instructions.jsonl --output demo-output --overwrite
	@$(BIN)/python examples/show.py demo-output

# Triton has builds for Linux only; elsewhere there is nothing to compile.
test: $(VENV)/.installed-test
	@if [ "$$(uname -s)" = Linux ]; then $(BIN)/python -m hala_kernels.compile --quiet; fi
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) demo-output build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

$(VENV)/.torch:
	@$(or $(PYTHON),false) -c '$(IN_RANGE)' || { \
		echo "Python 3.11 or 3.12 is needed; name one: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "Installing into $(VENV); the first time takes a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		$(PIP) install --index-url $(TORCH_CPU_INDEX) --retries 1 --timeout 15 '$(TORCH)' \
		|| echo "$(TORCH_CPU_INDEX) gave no torch: taking it from the default index" >&2; \
	fi
	@touch $@

# The installation compiles the CPU kernels.
NATIVE := $(wildcard kernels/hala_kernels/native/*.[ch])

$(VENV)/.installed: $(VENV)/.torch pyproject.toml $(NATIVE)
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.torch pyproject.toml $(NATIVE)
	@$(PIP) install --editable '.[test]'
	@touch $@ $(VENV)/.installed
