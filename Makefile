PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# Processes that share the tests: one a core, eight at most. With 0 they run in pytest's own.
WORKERS ?= auto

.PHONY: tour test check format clean

tour: $(INSTALLED)  ## install, run the main job on data that ships with scikit-learn, end with a page
	$(BIN)/chainrule tour -o tour

test: check  ## install, lint, types, every test
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal

check: $(INSTALLED)  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "chainrule needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

clean:
	rm -rf .venv tour runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
