# make setup | demo | federation | test | soak | lint | clean
PYTHON ?= python3
BIN := .venv/bin
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup demo federation test soak lint clean

setup: .venv/.done

.venv/.done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("fedstyle needs Python 3.11 or newer; name one with make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	@rm -rf runs/demo
	@$(BIN)/fedstyle simulate simulation/quickstart/quickstart.toml --out runs/demo
	@echo
	@echo "Look at runs/demo/report.html: every device's style, photo and filter."
	@echo "Each filter is a Core ML model: runs/demo/clients/*/*.mlpackage"
	@echo "Try one on a photo of yours: $(BIN)/fedstyle stylize runs/demo/clients/000/filter PHOTO.jpg --out stylised.png"

federation: setup
	@rm -rf runs/federation
	@$(BIN)/python clients/federation.py rehearse simulation/quickstart/quickstart.toml --out runs/federation --set data.clients=3 --set server.rounds=3

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# One thread a process, as clients train; two processes fill two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m 'not soak'

soak: setup
	$(BIN)/python -m pytest -q -m soak

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist
