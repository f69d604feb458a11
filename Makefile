# `make demo` and `make test` set up all they need; a second call reuses it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint audit docs bench clean

demo: $(VENV)/.installed
	$(BIN)/selmix demo

test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# known vulnerabilities of what is installed
audit: $(VENV)/.installed-dev
	$(BIN)/python .ci/audit.py

# into site/; `make test` builds it, too
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/refine_speed.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/sweep.py --single
	$(BIN)/python benchmarks/pseudo_labels.py
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/stage1_speed.py

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site
