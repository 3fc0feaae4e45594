# `make demo` and `make test` are all a newcomer needs; both make and reuse one virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test test-fast check format docs families files bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: setup
	mkdir -p build
	$(BIN)/cascadebert demo --output build/demo --overwrite

test: setup
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-fast: setup
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow and not real"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/site

# Every family of models on every engine against transformers; some ten minutes.
families: setup
	$(BIN)/python benchmarks/families.py
	$(BIN)/python benchmarks/tables.py

# 2,000 generated files through predict and evaluate; some four minutes.
files: setup
	$(BIN)/python benchmarks/files.py

# Real data and real encoders; some eleven hours on two cores. DATA is the folder of data sets (see benchmarks/main.py),
# MPNET that of sentence-transformers/all-mpnet-base-v2, NAME a short one for this processor.
DATA ?= ../shared/data
MPNET ?= build/mpnet
NAME ?= this-machine
RUN := $(BIN)/python benchmarks
bench: setup
	$(BIN)/python -m pip install --quiet "schemathesis>=4.32"
	$(RUN)/demo.py
	for task in sst2 mrpc clinc150; do $(RUN)/main.py $$task --data $(DATA) || exit 1; done
	for step in objectives make finetune speed; do $(RUN)/shrink.py $$step --data $(DATA) || exit 1; done
	$(RUN)/taught.py --data $(DATA)
	$(RUN)/unlabelled.py --data $(DATA)
	$(RUN)/cascades.py --data $(DATA)
	$(RUN)/build_models.py $(MPNET) --data $(DATA)
	for step in make measure; do $(RUN)/build.py $$step --data $(DATA) || exit 1; done
	for step in engines tasks labels routing files static install; do \
		$(RUN)/inference.py $$step --data $(DATA) || exit 1; done
	$(RUN)/processors.py $(NAME) --data $(DATA)
	$(RUN)/scale.py --data $(DATA)
	for step in answers draws; do $(RUN)/coverage.py $$step --data $(DATA) || exit 1; done
	$(RUN)/search.py
	$(RUN)/ece_interval.py
	$(RUN)/watch.py
	for step in rates throughput idle soak fuzz; do $(RUN)/server.py $$step --data $(DATA) || exit 1; done
	$(RUN)/tables.py

clean:
	rm -rf build $(VENV)
