# Everything a newcomer needs: `make` lists it. Only Python 3.11+, make and git must be there beforehand.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# One thread a worker: two workers with two threads each would only wait for one another on 2 cores.
TEST_WORKERS ?= 2
# Some oracles read what others have written; these come first.
FIRST_ORACLES := tests/oracles/make_tokenizer_oracle.py tests/oracles/make_model_oracle.py
ORACLES := $(FIRST_ORACLES) $(filter-out $(FIRST_ORACLES),$(sort $(wildcard tests/oracles/make_*.py)))

.DEFAULT_GOAL := help
.PHONY: help venv demo evening smoke test lint format oracles bench bench-arena bench-curation bench-serve clients fuzz-api clean distclean

help: ## show this list
	@echo "qwill: the whole life of a small Qwen model, on your own machine"
	@echo
	@awk 'BEGIN {FS = ":.*## "} /^[a-z_-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "Set PYTHON=python3.12 for another interpreter; pip reads PIP_INDEX_URL and its own configuration for a mirror."

venv: $(STAMP) ## make .venv with all that demo and test need

# torch goes first and alone, so that a mirror or a CPU-only wheel that the user's pip is set up for is taken once
# and not replaced while the rest is resolved.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Qwill needs Python 3.11 or newer; %s is %s" % (sys.executable, sys.version.split()[0]))'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$($(PYTHON) -c 'import tomllib; print(next(d for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"] if d.startswith("torch==")))')"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(STAMP) ## text to chat model in about 15 minutes on 2 cores; run it again to go on where it stopped
	@$(BIN)/qwill run recipes/demo.yaml

evening: $(STAMP) ## the same life with a larger model and all the data, 90 minutes on 2 cores
	@$(BIN)/qwill run recipes/evening.yaml

smoke: $(STAMP) ## the whole life in under 4 minutes, too small to be any good
	@$(BIN)/qwill run recipes/smoke.yaml

test: $(STAMP) ## run the tests (no GPU, no network)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile tests

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## sort imports and mend what ruff can
	$(BIN)/ruff check --fix .

# What other projects say is recorded once in tests/oracles; they do not install together, so each script names what it
# needs in its docstring, on a line "requirements: transformers==5.23.0 torch==2.13.0".
oracles: $(STAMP) ## ask the other projects again and write their answers to tests/oracles
	@set -e; for script in $(ORACLES); do \
	  name=$$(basename $$script .py); \
	  needs=$$(sed -n 's/^[Rr]equirements: *//p' $$script); \
	  test -n "$$needs" || { echo "$$script names no requirements"; exit 1; }; \
	  echo "== $$name: $$needs"; \
	  test -x .venvs/$$name/bin/python || $(PYTHON) -m venv .venvs/$$name; \
	  .venvs/$$name/bin/python -m pip install --quiet $$needs; \
	  .venvs/$$name/bin/python $$script; \
	done

bench: $(STAMP) ## run the benchmarks (slow); results go to benchmarks/RESULTS.md
	test -x .venvs/transformers/bin/python || $(PYTHON) -m venv .venvs/transformers
	.venvs/transformers/bin/python -m pip install --quiet torch==2.13.0
	.venvs/transformers/bin/python -m pip install --quiet transformers==5.23.0
	$(BIN)/python benchmarks/pretraining.py --peer-python .venvs/transformers/bin/python
	$(BIN)/python benchmarks/generation.py --peer-python .venvs/transformers/bin/python
	$(BIN)/python benchmarks/delta.py --peer-python .venvs/transformers/bin/python
	$(BIN)/python benchmarks/sft_data.py
	if test -d runs/demo/sft; then $(BIN)/python benchmarks/alignment.py recipes/demo.yaml; else echo "benchmarks/alignment.py needs make demo first"; fi

ARENA_RANK := .venvs/arena-rank/bin/python
bench-arena: $(STAMP) ## ratings against arena-rank, coverage of their intervals, active pairing (15 minutes on 2 cores)
	test -x $(ARENA_RANK) || $(PYTHON) -m venv .venvs/arena-rank
	$(ARENA_RANK) -m pip install --quiet arena-rank==0.1.1
	$(BIN)/python benchmarks/arena_speed.py --peer-python $(ARENA_RANK)
	$(BIN)/python benchmarks/arena_pairing.py
	$(BIN)/python benchmarks/arena_coverage.py

DATATROVE := .venvs/datatrove/bin/python
bench-curation: $(STAMP) ## curation against datatrove and its other figures (an hour on 2 cores)
	test -x $(DATATROVE) || $(PYTHON) -m venv .venvs/datatrove
	$(DATATROVE) -m pip install --quiet "datatrove[processing]==0.10.1" spacy==3.8.18 jieba==0.42.1 nltk orjson xxhash==3.8.2
	$(DATATROVE) -m pip install --quiet --upgrade trafilatura==2.3.1 lxml-html-clean
	$(BIN)/python benchmarks/filter_parity.py --peer-python $(DATATROVE)
	$(BIN)/python benchmarks/words_parity.py --peer-python $(DATATROVE)
	$(BIN)/python benchmarks/curation_speed.py --peer-python $(DATATROVE)
	$(BIN)/python benchmarks/html_speed.py --peer-python $(DATATROVE)
	$(BIN)/python benchmarks/minhash.py --peer-python $(DATATROVE)
	$(BIN)/python benchmarks/minhash_scale.py --work .venvs/minhash_scale
	$(BIN)/python benchmarks/curation_kills.py
	$(BIN)/python benchmarks/redaction.py
	$(BIN)/python benchmarks/decontamination.py
	$(BIN)/python benchmarks/hostile.py
	$(BIN)/python benchmarks/curation_gain.py --work .venvs/curation_gain

CLIENTS := .venvs/clients
clients: $(STAMP) ## stock clients (openai, litellm, anthropic, lm-eval, …) against qwill serve; needs npm too
	$(BIN)/python benchmarks/stock_clients.py --environments $(CLIENTS)

fuzz-api: $(STAMP) ## schemathesis against the server's own OpenAPI document
	$(BIN)/python benchmarks/stock_clients.py --environments $(CLIENTS) --only schemathesis --models recite --dry

# llama.cpp's own server, which batches, is compared where LLAMA_SERVER names it; llama-cpp-python is built natively.
LLAMA_SERVER ?=
bench-serve: $(STAMP) ## the server: load, soak, parity with lm-eval, batches against llama.cpp and transformers
	test -x .venvs/llama/bin/python || $(PYTHON) -m venv .venvs/llama
	.venvs/llama/bin/python -m pip install --quiet "llama-cpp-python[server]==0.3.36"
	test -x .venvs/transformers-serve/bin/python || $(PYTHON) -m venv .venvs/transformers-serve
	.venvs/transformers-serve/bin/python -m pip install --quiet torch==2.13.0
	.venvs/transformers-serve/bin/python -m pip install --quiet "transformers[serving]==5.23.0"
	$(BIN)/python benchmarks/stock_clients.py --environments $(CLIENTS)
	$(BIN)/python benchmarks/lm_eval_parity.py --peer-python $(CLIENTS)/lm_eval_client/bin/python
	$(BIN)/python benchmarks/serve_soak.py
	$(BIN)/python benchmarks/serve_load.py
	$(BIN)/python benchmarks/serve_first_token.py
	$(BIN)/python benchmarks/serve_batch.py $(if $(LLAMA_SERVER),--llama-server $(LLAMA_SERVER)) \
	  --llama-python .venvs/llama/bin/python --transformers-python .venvs/transformers-serve/bin/python

clean: ## remove caches and what tests and builds left behind; runs/ and .venv stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## clean, and remove .venv and the oracles' environments too
	rm -rf $(VENV) .venvs
