# make demo: environment, then the main job on the bundled speech. make examples: models for configs/. make test: the tests.
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: demo examples test check conformance compat drill slow fuzz bench lock docs clean

demo: .venv/ready
	$(BIN)/python -m jobs.run configs/demo.yaml --fresh
	$(BIN)/python -m demo.score configs/demo.yaml

examples: .venv/ready
	$(BIN)/python -m demo.examples

test: .venv/ready
	$(BIN)/python -m pytest -q --durations=40 --durations-min=5

check: .venv/ready build/package/dray
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The package as it is installed, made of links: mypy does not know package-dir.
build/package/dray: Makefile $(wildcard dray/*)
	rm -rf $@ && mkdir -p $@
	ln -s $(addprefix ../../../,$(wildcard dray/*.py) dray/py.typed jobs pipelines) $@

# Every task at every batch size and layout against transformers' own pipeline: the whole table.
conformance: .venv/ready
	HF_HUB_OFFLINE=1 PYTHONPATH=tests:. $(BIN)/python -m support.conformance 2> /dev/null

# The lowest and the newest transformers and Ray that pyproject.toml admits: conformance, private names, whole jobs.
compat: .venv/ready build/compat/ready
	for version in $(TRANSFORMERS_VERSIONS); do \
	  echo "transformers $$version"; \
	  HF_HUB_OFFLINE=1 PYTHONPATH=build/compat/transformers-$$version:tests:. \
	    $(BIN)/python -m support.conformance 2> /dev/null || exit 1; \
	  PYTHONPATH=build/compat/transformers-$$version $(BIN)/python -m pytest -q -p no:cacheprovider \
	    tests/pipelines/internals tests/pipelines/generation/test_shrinking.py || exit 1; \
	done
	for version in $(RAY_VERSIONS); do \
	  echo "ray $$version"; \
	  PYTHONPATH=build/compat/ray-$$version $(BIN)/python -m pytest -q -p no:cacheprovider \
	    tests/jobs/cluster tests/jobs/batch/test_job.py tests/jobs/batch/test_resume.py tests/jobs/online/test_serve.py || exit 1; \
	done

# Each version in a folder of its own, before the environment on the path. Older transformers want an older hub.
TRANSFORMERS_VERSIONS := 5.17.0 5.24.0
RAY_VERSIONS := 2.59.0 2.60.0
build/compat/ready: Makefile
	rm -rf build/compat && mkdir -p build/compat
	for version in $(TRANSFORMERS_VERSIONS); do \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/compat/transformers-$$version \
	    transformers==$$version || exit 1; \
	done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/compat/transformers-5.17.0 \
	  'huggingface-hub<2'
	for version in $(RAY_VERSIONS); do \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/compat/ray-$$version \
	    ray==$$version || exit 1; \
	done
	touch $@

# Every fault that a long job meets, one after the other: what happened, and whether all rows are there.
drill: .venv/ready
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/drills

# The tests that `make test` leaves out.
slow: .venv/ready
	$(BIN)/python -m pytest -q -m slow

# 10,000 damaged, absurd and hostile recordings, images and texts.
fuzz: .venv/ready
	HF_HUB_OFFLINE=1 PYTHONPATH=tests:. $(BIN)/python -m support.fuzz

# dray beside other tools, and its own costs: written to docs/results.md. Takes hours.
bench: .venv/ready build/bench/ready
	PYTHONPATH=tests:.:build/bench $(BIN)/python tests/benchmarks/bench.py

# Other tools, beside the environment and not in it; what they need is in it.
build/bench/ready: Makefile
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/bench \
	  daft==0.7.26 sentence-transformers==6.2.0
	touch $@

# torch first and pinned: a plain `torch` would bring several gigabytes of CUDA where a CPU build is at hand.
.venv/ready: requirements.lock requirements.ui.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' requirements.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.ui.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . 2> .venv/install.log || { cat .venv/install.log; exit 1; }
	touch $@

# New exact versions, from an environment made only by pyproject.toml.
lock:
	rm -rf .venv && $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	{ head -1 requirements.lock; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > requirements.new
	mv requirements.new requirements.lock

clean:
	rm -rf .venv output build dist *.egg-info

# The documentation as a site, in build/site. The config reference is made from the schema; a broken link is an error.
docs: .venv/ready build/docs-env/ready
	$(BIN)/python docs/reference/generate.py
	NO_MKDOCS_2_WARNING=1 build/docs-env/bin/mkdocs build --quiet --strict --site-dir build/site

# An environment of its own: what builds the pages is not what dray needs.
build/docs-env/ready: Makefile
	$(PYTHON) -m venv build/docs-env
	build/docs-env/bin/python -m pip install --quiet --disable-pip-version-check mkdocs-material==9.8.2
	touch $@
