# `make quickstart`, `make search-quickstart` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# DeepSpeed's C++ operators are compiled on first use where a GPU is; nothing is compiled at install time.
export DS_BUILD_OPS = 0

.PHONY: quickstart search-quickstart test lint bench clean

quickstart: $(VENV)/.train
	$(BIN)/laconic run recipes/quickstart.yaml --profile cpu2

search-quickstart: $(VENV)/.search
	$(BIN)/laconic run recipes/search_quickstart.yaml --profile cpu2

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.dev
	$(BIN)/python bench/rewards.py --write
	$(BIN)/python bench/quickstart_seeds.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[train]'
	@touch $@

$(VENV)/.search: $(VENV)/.train
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[train,search]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
