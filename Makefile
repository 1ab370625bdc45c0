# make run: a server, on a machine that has only Python (with venv) and make. make test: everything.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install run test lint types unit bench bench-peers bench-peers-page profile format clean

install: $(STAMP)

# The stamp makes the second `make run` immediate; a changed pyproject.toml installs again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; say which: make PYTHON=/path/to/python")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@

run: $(STAMP)
	exec $(BIN)/logd serve $(ARGS)

# mypy computes while the tests wait for a process or a disk, as they do half of the time.
test: lint
	+$(MAKE) --jobs=2 --no-print-directory types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# A file's tests stay together: they share servers. ARGS="-n 0 -k name" runs in one process.
# One process more than a small machine has cores, since half of the tests wait; files in the order
# of their names, so that the long ones (crash, interop) are not the last. Byte code is kept, even
# where the environment says otherwise: without, each process compiles all tests anew, for 25 s.
unit: export PYTHONDONTWRITEBYTECODE :=
unit: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

bench: $(STAMP)
	$(BIN)/logd bench all $(ARGS)

# Apache Kafka, Redis and NATS beside logd, each got from its package: ARGS="--only kafka --seconds 0.4".
bench-peers: $(STAMP)
	$(BIN)/python -m bench.peers run --out build/peers.json $(ARGS)

bench-peers-page: $(STAMP)
	$(BIN)/python -m bench.peers page build/peers.json --out docs/benchmarks.md

# Flame graphs and the budget of a request: ARGS="append-100 --dir /var/tmp". docs/performance.md.
profile: $(STAMP)
	$(BIN)/python -m bench.profiler --out build/profile $(ARGS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build ./*.egg-info
