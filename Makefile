# make demo: the whole job on real images. make test: what CI runs. Both build .venv first.
# A user with a GPU says TORCH=cuda once: make setup TORCH=cuda
TORCH ?= cpu
DATA ?= elpv
PYTEST = .venv/bin/python -m pytest -n 2 -q

.PHONY: setup demo test lint types slow parity clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt .ci/setup
	.ci/setup $(TORCH)
	touch $@

demo: setup
	.venv/bin/fgvc-kit demo --data $(DATA) --out runs/demo-$(DATA)

test: lint types
	$(PYTEST)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: setup
	.ci/types

slow: setup
	$(PYTEST) -m slow

parity: setup
	$(PYTEST) tests/parity --reference tests/reference

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
