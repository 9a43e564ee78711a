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
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Speed and memory, minutes each; then what recipes reach, seed by seed: an hour and a half in all.
bench: $(VENV)/.dev
	for name in rewards engine_speed server retriever prefill logprobs grpo_step memory; do \
	  $(BIN)/python bench/$$name.py --write || exit 1; done
	$(BIN)/python bench/quickstart_seeds.py
	$(BIN)/python bench/quickstart_trl.py 0 1 2 --write
	$(BIN)/python bench/search_seeds.py
	$(BIN)/python bench/search_rewards.py
	$(BIN)/python bench/readme_results.py

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
