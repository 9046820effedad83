# Two commands: `make demo` runs the whole journey on real data, `make test` runs every test.
# Both set up .venv by themselves and reuse it; `make help` lists the other targets.
PYTHON ?= python3
DEMO = demo_output
ARGS =
BIN = .venv/bin

.PHONY: help demo test lint docs bench fuzz clean

help:
	@echo "make demo    protect the bundled CT data end to end, into DEMO=$(DEMO)"
	@echo "make test    run the tests; ARGS='-m \"not slow\"' is passed to pytest"
	@echo "make lint    ruff check, ruff format --check, mypy --strict"
	@echo "make docs    the documentation as HTML, docs/_build/html/index.html; needs no network"
	@echo "make bench   speed and memory on a synthetic export; ARGS='--slices 200' is passed on"
	@echo "make fuzz    60 s of damaged files through scan, read, protect; ARGS='--seconds 600 --seed 1'"
	@echo "make clean   remove everything these commands made, .venv included"
	@echo "PYTHON=...   the interpreter for .venv, 3.11 to 3.13 (now: $(PYTHON))"

demo:
	@PYTHON="$(PYTHON)" .ci/venv demo
	@$(BIN)/salm-dicom demo -o "$(DEMO)"

test:
	@PYTHON="$(PYTHON)" .ci/venv dev
	@$(BIN)/python -m pytest $(ARGS)

lint:
	@PYTHON="$(PYTHON)" .ci/venv dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict salm_dicom

docs:
	@PYTHON="$(PYTHON)" .ci/venv dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench:
	@PYTHON="$(PYTHON)" .ci/venv dev
	@$(BIN)/python benchmarks/pipeline.py $(ARGS)

fuzz:
	@PYTHON="$(PYTHON)" .ci/venv dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

clean:
	rm -rf .venv build dist demo_output demo_output.vault fuzz_findings docs/_build docs/generated
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
