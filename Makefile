# Needs make and Python 3.11 or newer, nothing else. `make` alone says what there is.
# Works with GNU make 3.81, which is what macOS has.

PYTHON ?=
CHAPTER ?=
PY := .venv/bin/python
NOTEBOOKS = $(wildcard chapters/*/*.ipynb)
RENDER = $(PY) tools/render_book.py build . -W -n --keep-going && echo "The book is ready: open _build/html/index.html"

export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONPATH PYTHONHOME

.PHONY: help book pdf test rerun chapter new lint bench clean setup venv

help:
	@echo "Papers You Can Rerun"
	@echo
	@echo "  make book                 run the chapters whose code has changed, then render the book"
	@echo "  make pdf                  the same, and then print the whole book into one PDF; needs Chromium"
	@echo "  make test                 prove everything: library, pages, and every chapter run again"
	@echo "  make chapter CHAPTER=...  run one chapter if its code has changed, then render the book"
	@echo "  make rerun                run every chapter, changed or not, then render the book"
	@echo "  make new CHAPTER=...      start a chapter from the template"
	@echo "  make lint                 check the style of the code and the notebooks"
	@echo "  make bench                measure speed: a table here, JSON in benchmarks/results/"
	@echo "  make clean                remove what was rendered and cached; runs and .venv stay"
	@echo "  make setup                only install what is needed, into .venv"
	@echo "  make venv                 only make .venv, for example to put your own build of torch into it"
	@echo
	@echo "The first call of book, test and the others does the setup by itself; it takes some minutes."
	@echo "Another Python: make book PYTHON=python3.12. To begin afresh: rm -rf .venv"

book: setup
	@$(PY) -m reprobook.cli refresh
	@$(RENDER)

pdf: book
	@$(PY) tools/print_book.py

rerun: setup
	@$(PY) -m reprobook.cli refresh --all
	@$(RENDER)

chapter: setup
	@$(PY) -m reprobook.cli refresh "$(CHAPTER)"
	@$(RENDER)

# Two halves side by side, of about the same length: the tests, which are shown as they pass, and the notebooks. Each
# computes on one core, since threads of two programs that wait for one another on two cores take many times as long.
test: setup
	@mkdir -p _build
	@export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}; \
		$(PY) -m pytest --nbval --nbval-current-env -p no:cacheprovider $(NOTEBOOKS) >_build/notebooks.log 2>&1 & \
		notebooks=$$!; trap 'kill $$notebooks' INT TERM; \
		$(PY) -m pytest tests; code=$$?; \
		echo "Every chapter, run again and compared (so far in _build/notebooks.log):"; \
		wait $$notebooks || code=1; cat _build/notebooks.log; exit $$code

lint: setup
	@$(PY) -m ruff check .; code=$$?; $(PY) -m ruff format --check . && exit $$code

bench: setup
	@mkdir -p benchmarks/results
	@$(PY) -m pytest benchmarks -o python_files="test_*.py bench_*.py" --benchmark-only --benchmark-sort=name \
		--benchmark-columns=min,median,stddev,rounds --benchmark-json=benchmarks/results/benchmarks.json

new: setup
	@$(PY) tools/new_chapter.py "$(CHAPTER)"

clean:
	rm -rf _build .pytest_cache .ruff_cache .hypothesis .benchmarks
	find lib tests chapters benchmarks -name __pycache__ -prune -exec rm -rf {} +

venv:
	@PYTHON="$(PYTHON)" tools/make-venv

setup: venv
	@$(MAKE) --silent --no-print-directory .venv/.installed
	@$(if $(filter setup,$(MAKECMDGOALS)),echo ".venv is ready")

# A package without its RECORD was cut off in the middle: forgotten, so that pip installs it again.
.venv/.installed: requirements.lock pyproject.toml
	@find .venv/lib \( -name '*.dist-info' ! -exec test -e '{}/RECORD' \; -o -name '~*' \) -prune -exec rm -rf {} +
	@echo "Installing what requirements.lock names into .venv"
	@$(PY) -m pip install --requirement requirements.lock
	@$(PY) -m pip install --no-deps --no-build-isolation --editable .
	@touch $@
