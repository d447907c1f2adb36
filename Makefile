# make demo: fit on real images, within 60 % of the time of the dense model in INT8. make test: what CI runs. Both build .venv first; make setup does just that.
# TORCH=cuda once (make setup TORCH=cuda) takes the torch of a machine with an NVIDIA GPU; it is remembered.
TORCH ?= $(if $(wildcard .venv/.ready-cuda),cuda,cpu)
# The demo's images: elpv (solar cells, CC BY-NC-SA) or textile (MIT).
DATA ?= elpv
OUT ?= runs/demo$(if $(filter-out elpv,$(DATA)),-$(DATA))
# One thread a test process: two of them share two cores. What is compiled of Python once is kept: the processes that tests
# start import it, whatever the shell says.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 -q

# make ci: the contracts on every route and the whole catalogue of bad input, then, until so many minutes after its begin,
# the slow tests of one in so many parts, chosen by the commit. What takes longest, or asks how fast something is, is
# nightly's alone.
ALWAYS = tests/contracts tests/verbs/test_bad_input.py
NIGHTLY = tests/faults/test_kills.py tests/data/test_many_files.py tests/workflows/test_predict_speed.py
MINUTES ?= 13
PARTS ?= 8
PART = $$((0x$$(git rev-parse --short=7 HEAD 2>/dev/null || echo 0) % $(PARTS)))

.PHONY: setup demo docs gpu test ci nightly lowest lint types slow parity release-check clean

setup: .venv/.ready-$(TORCH)

.venv/.ready-$(TORCH): pyproject.toml constraints.txt .ci/setup
	.ci/setup $(TORCH)
	touch $@

demo: setup
	.venv/bin/python cli.py fit $(DATA) --budget latency=60% --max-time 10m --out $(OUT)

# What concerns a GPU: on a machine with CUDA and its torch, 8 minutes; DEVICE=cpu is the dry run.
gpu: DEVICE ?= cuda
gpu:
	$(or $(wildcard .venv/bin/python),python3) examples/studies/gpu.py --device $(DEVICE) --out runs/gpu-$(DEVICE)

docs: .venv/.ready-docs
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict

.venv/.ready-docs: .venv/.ready-$(TORCH)
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

test: lint types
	$(PYTEST) --dist loadfile

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup
	.ci/types

slow: setup
	$(PYTEST) -m slow

ci: setup
	begin=$$(date +%s) && $(PYTEST) -m slow $(ALWAYS) && $(PYTEST) -m slow $(ALWAYS:%=--ignore %) \
		--slice $(PART)/$(PARTS) --minutes $$(($(MINUTES) - ($$(date +%s) - begin) / 60)) $(NIGHTLY:%=--deselect %)

nightly: test slow

lowest: setup
	.ci/lowest

parity: setup
	$(PYTEST) tests/parity --reference tests/reference

release-check: setup
	.ci/release-check

clean:
	rm -rf .venv build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis
