# Each target sets up what it needs: a machine with Python 3.11 or newer and make is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test slow check docs gallery wheel clean

$(VENV)/.run: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.run      ## the main job on embedded data, in half a minute
	$(BIN)/ltdd distill --method dm --plugin twostage

test: $(VENV)/.dev      ## the fast tests, two at a time with one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

slow: $(VENV)/.dev      ## the long tests
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.dev     ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.dev      ## the documentation site, docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

gallery: $(VENV)/.run   ## docs/gallery.md with its pictures, in some minutes; CIFAR10=DIR adds photographs
	$(BIN)/python benchmarks/gallery.py $(if $(CIFAR10),--cifar10 '$(CIFAR10)')

wheel: $(VENV)/.dev     ## build the wheel, install it in a clean environment, run the main job outside the checkout
	rm -rf dist
	$(BIN)/python -m build --quiet --wheel
	sh .ci/try-wheel dist/*.whl

clean:
	rm -rf $(VENV) dist build docs/_build docs/_generated .pytest_cache .mypy_cache .ruff_cache .hypothesis
