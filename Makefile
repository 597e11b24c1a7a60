# make demo      makes the demo data, trains a BagNet on it and shows where it looks
# make test      lint, types and all quick tests
# make test-all  that, and the slow suites: SLURM, browser, killed processes, long runs, and a
#                rehearsal of benchmarks/gpu.sh
# make soak      tries to break everything; the table is in soak/table.md
# make docs      builds the site of the pages into site/, from which it can be read without a server
# make notebook  runs docs/notebooks/explain.ipynb, and writes its outputs into it
# make lock      brings requirements.lock up to date with requirements.txt; make upgrade takes the
#                newest versions
# make licences  writes docs/dependencies.md
# Each sets up .venv first. Nothing that is already done is done again.

PYTHON ?= python3
BIN := .venv/bin
DEMO := data/demo
RUN := runs/demo
SLOW := slow or slurm or browser
SCRIPTS := $(wildcard slurm/*.sbatch slurm/*.sh benchmarks/*.sh) .ci/run

.PHONY: demo test test-slow test-all soak docs notebook lint lock upgrade licences setup clean
.DELETE_ON_ERROR:

setup: .venv/ready

.venv/ready: requirements.lock
	@$(PYTHON) -c 'import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
	  { echo "error: $(PYTHON) must be Python 3.10 to 3.13 with venv (Debian: apt-get install python3-venv);" \
	         "another one: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

demo: setup
	$(BIN)/python -m datamodules.demo $(DEMO)
	$(BIN)/python train.py --config configs/demo.yaml --data.root $(DEMO) --name demo --resume auto
	$(BIN)/python -m bagnet.experiments pointing --models demo=$(RUN)/checkpoints/best.ckpt \
	  --data.root $(DEMO) --out $(RUN)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for script in $(SCRIPTS); do bash -n $$script || exit; done
	$(BIN)/shellcheck $(SCRIPTS)
	$(BIN)/codespell $$(git ls-files '*.py' '*.md' '*.yaml' '*.sh' '*.sbatch' '*.html' '*.js')

test: lint
	$(BIN)/python -m pytest -m "not ($(SLOW))"

test-slow: setup
	$(BIN)/python -m pytest -m "$(SLOW)"

soak: setup
	rm -rf soak
	$(BIN)/python -m tests.soak

test-all: test test-slow soak

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "$(CURDIR)/site/index.html"

notebook: setup
	PYTHONPATH=$(CURDIR) $(BIN)/python .ci/notebook.py docs/notebooks/explain.ipynb

lock upgrade: setup
	$(BIN)/uv pip compile requirements.txt --output-file requirements.lock --quiet \
	  --universal --python-version 3.10 --generate-hashes --only-binary :all: --emit-build-options \
	  --custom-compile-command "make lock" $(if $(filter upgrade,$@),--upgrade)

licences: setup
	$(BIN)/python .ci/dependencies.py >.venv/dependencies.md
	mv .venv/dependencies.md docs/dependencies.md

clean:
	rm -rf .venv build dist *.egg-info
