# Everything runs in .venv, which needs nothing but a Python >= 3.11 with venv.

PYTHON ?= python3
RUN := .venv/bin/python -m
LOCK := UV_CUSTOM_COMPILE_COMMAND="make lock" $(RUN) uv pip compile --quiet --upgrade --universal \
  --python-version 3.11 --generate-hashes --no-annotate

.PHONY: venv demo test lint check e2e lock clean

venv: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(RUN) pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: venv            # three nodes on this machine, an image pushed to one, pulled from the others
	$(RUN) benchmarks.demo

test: venv            # all tests; what the machine has no tools for is skipped with a line
	$(RUN) pytest -n 4

lint: venv
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

check: lint test

e2e: venv             # only the tests with real clients, and the official conformance suite
	$(RUN) pytest -m e2e

lock: venv            # what the image and the bundle install: newest versions, with their hashes
	$(RUN) pip install --quiet uv
	echo hatchling | $(LOCK) - --output-file deploy/build-requirements.txt
	$(LOCK) pyproject.toml --output-file deploy/requirements.txt

clean:
	rm -rf .venv build dist
