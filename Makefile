# What a newcomer needs, from a fresh clone: `make demo`, `make test`. See CONTRIBUTING.md.
#
# Everything Python goes into .venv, pinned by hash. Stamps in it keep repeated runs quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make demo TRACE=path/to/trace.jsonl; more options of `mezzo demo` in ARGS
TRACE ?=
ARGS ?=
# A folder with the published trace; tests and demo do without it (docs/replay.md).
MEZZO_TRACES ?= $(wildcard ../shared/traces)
export MEZZO_TRACES
# Tests start hundreds of processes and import thousands of tests: what was compiled is kept (make clean removes it),
# also where the surroundings say otherwise, as many containers do.
unexport PYTHONDONTWRITEBYTECODE
# A guard against what hangs; on two quiet cores the suite takes a few minutes.
TEST_SECONDS ?= 900
TEST_LONG_SECONDS ?= 4500
# Many tests wait for processes more than they compute, so more at a time than there are cores.
TEST_PROCESSES ?= 3
# Of what keeps its cores busy by itself.
LONG_PROCESSES ?= 2
# make simulate SEEDS=1000 SEED=0; SIMULATE_SECONDS: begin no other seed after so long, 0: play all.
SEEDS ?= 1000
SEED ?= 0
SIMULATE_SECONDS ?= 0

NATIVE_FOLDER := server/mezzo_server/_native
NATIVE := setup.py $(filter-out %/ring.c %/pool.c %/rendezvous.c,$(wildcard $(addprefix $(NATIVE_FOLDER)/*.,pyx pxd c h)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help simulate demo demo-pod test test-long lint format bench build clean distclean native proto proto-lint

help:
	@echo "make demo    start a node, replay a trace through it, kill its shard, check what is left"
	@echo "             (TRACE=file for a trace of yours; without one, a workload fitted to a real one)"
	@echo "make demo-pod  the same with an etcd and a pod of two nodes, of which one is killed and comes back"
	@echo "make test    the test suite (ARGS for pytest)"
	@echo "make test-long  what takes minutes: tests marked long (ARGS for pytest; docs/testing.md)"
	@echo "make simulate SEEDS=1000  a whole pod in virtual time, with faults from so many seeds (docs/simulation.md)"
	@echo "make lint    ruff, mypy, import-linter"
	@echo "make format  let ruff format and fix"
	@echo "make proto   generate client/mezzo/v1 from proto/; make proto-lint runs buf on it"
	@echo "make bench   measure against fio, iperf3, redis and others (ARGS for python -m benchmarks)"
	@echo "make build   a wheel in dist/"
	@echo "make clean   remove what was built; make distclean also removes $(VENV)"

demo: $(VENV)/.stamp-demo $(VENV)/.stamp-install
	@$(BIN)/mezzo demo $(TRACE) $(ARGS)

demo-pod: $(VENV)/.stamp-demo $(VENV)/.stamp-install
	@etcd=$$(.ci/etcd $(VENV)/etcd) && $(BIN)/mezzo demo-pod $(TRACE) --etcd "$$etcd" $(ARGS)

test: $(VENV)/.stamp-dev $(VENV)/.stamp-install
	@.ci/etcd $(VENV)/etcd >/dev/null || echo "tests of the metadata engine on etcd are skipped"
	@# In the order of the folders: what takes long (integration) comes first, and the many quick files fill up the end.
	timeout --kill-after=10 $(TEST_SECONDS) $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: $(VENV)/.stamp-dev $(VENV)/.stamp-install
	@.ci/etcd $(VENV)/etcd >/dev/null || echo "tests with an etcd are skipped"
	timeout --kill-after=10 $(TEST_LONG_SECONDS) \
	    $(BIN)/python -m pytest -m long -n $(LONG_PROCESSES) --dist loadgroup $(ARGS)

simulate: $(VENV)/.stamp-dev $(VENV)/.stamp-install
	@$(BIN)/mezzo simulate faults --seed $(SEED) --seeds $(SEEDS) --jobs $(LONG_PROCESSES) --stop-after $(SIMULATE_SECONDS) $(ARGS)

lint: $(VENV)/.stamp-dev $(VENV)/.stamp-install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.stamp-dev $(VENV)/.stamp-install
	@.ci/packages bench
	$(BIN)/python -m benchmarks $(ARGS)

build: $(VENV)/.stamp-dev
	@.ci/packages native
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

proto: $(VENV)/.stamp-dev
	PATH="$(CURDIR)/$(BIN):$$PATH" proto/generate client
	PATH="$(CURDIR)/$(BIN):$$PATH" proto/etcd/generate

proto-lint:
	@proto/lint

native:
	$(BIN)/python setup.py -q build_ext --inplace

# -- environment ---------------------------------------------------------------------------------

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Mezzo needs Python 3.11 or later as $(PYTHON): try make PYTHON=python3.12"; exit 1; }
	@PYTHON=$(PYTHON) .ci/packages venv
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-demo: requirements/demo.txt $(VENV)/.stamp-venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/demo.txt
	@touch $@

# dev.txt holds all of demo.txt, in the same versions.
$(VENV)/.stamp-dev: requirements/dev.txt $(VENV)/.stamp-venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $(VENV)/.stamp-demo $@

# The compiled part is built in place along with it. It is optional: without a compiler or liburing
# the server does its I/O with pread in threads, so say so and go on.
$(VENV)/.stamp-install: pyproject.toml $(NATIVE) $(VENV)/.stamp-demo
	@PYTHON=$(BIN)/python .ci/packages native
	@echo "building and installing Mezzo into $(VENV)"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable . -v \
	    >$(VENV)/install.log 2>&1 || { tail -n 20 $(VENV)/install.log; exit 1; }
	@$(BIN)/python -c 'import mezzo_server._native.ring, mezzo_server._native.pool, mezzo_server._native.rendezvous' 2>/dev/null || \
	    echo "no io_uring module ($(VENV)/install.log says why): I/O goes through pread in threads. Later: make native"
	@# An editable install compiles nothing; processes would do so each time they start.
	@$(BIN)/python -m compileall -q -j 0 client/mezzo server/mezzo_server
	@touch $@

# -- cleaning ------------------------------------------------------------------------------------

clean:
	rm -rf build dist proto/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find client server -name '*.so' -delete
	find $(wildcard client server tests benchmarks docs) -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f $(NATIVE_FOLDER)/ring.c $(NATIVE_FOLDER)/pool.c $(VENV)/.stamp-install

distclean: clean
	rm -rf $(VENV) client/*.egg-info server/*.egg-info *.egg-info
