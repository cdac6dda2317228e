PYTHON ?= python3.11
VENV := .venv
JAX_VENV := .venv-jax
RUN := $(VENV)/bin/python
# Tests in many processes compile the same small programs. (Begun anew each time: tests that kill may cut a file of it.)
COMPILED = $(CURDIR)/$(JAX_VENV)/compiled
JAX_CACHE = JAX_COMPILATION_CACHE_DIR="$(COMPILED)" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1
INSTALL := pip install --quiet --disable-pip-version-check --require-hashes -r
# The longest first.
TEST_PARTS := test-whole test-classifiers test-densities test-jax test-wheel

.PHONY: demo demo-genomics check test $(TEST_PARTS) style site bench clean

# Train small density models and a classifier on the embedded data, evaluate both, write the reports.
demo: $(VENV)/installed
	$(RUN) -m images_ood.sweep --exp=fashion_small
	$(RUN) -m ood_suite.eval --run=output/images_ood/fashion_small
	$(RUN) -m classifier_ood.train --exp=fashion
	$(RUN) -m ood_suite.eval --run=output/classifier_ood/fashion/convnet
	@echo "Open output/images_ood/fashion_small/report/report.html"
	@echo "and output/classifier_ood/fashion/convnet/report/report.html"

# The same for DNA reads: words that are counted (seconds), a network and one background (minutes), and OOD reads
# screened by the words, with the network's ratio as a second opinion.
demo-genomics: $(VENV)/installed
	$(RUN) -m genomics_ood.sweep --exp=bacteria_kmers
	$(RUN) -m ood_suite.eval --run=output/genomics_ood/bacteria_kmers
	$(RUN) -m genomics_ood.sweep --exp=bacteria --mutation_rates=0.3 --reg_weights=0.001
	$(RUN) -m ood_suite.eval --run=output/genomics_ood/bacteria
	$(RUN) -m genomics_ood.screen --second=output/genomics_ood/bacteria --out=output/genomics_ood/screened.tsv \
		genomics_data/samples/bacteria_ood_test.npz
	@echo "Open output/genomics_ood/bacteria_kmers/report/report.html"

# While working: style, types at the borders, and the tests of what is arrays. Under two minutes.
check: style
	$(RUN) -m pytest -x ood_suite --ignore=ood_suite/training --ignore=ood_suite/serving --ignore=ood_suite/scores/literal_test.py \
		--deselect=ood_suite/intervals_test.py::test_ten_million_scores_stay_within_a_gibibyte \
		tests/layering_test.py tests/docs_test.py tests/site_test.py

# Before landing: everything, two parts at a time. (Tests start hundreds of processes: they keep what they compile.)
test:
	PYTHONDONTWRITEBYTECODE= $(MAKE) --jobs=2 style $(JAX_VENV)/installed
	PYTHONDONTWRITEBYTECODE= $(MAKE) --jobs=2 --keep-going $(TEST_PARTS)

style: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# The pages as a site, with the reports in output/: open output/site/index.html.
site: $(VENV)/installed
	$(RUN) -m mkdocs build --strict --quiet

# Ratios of speed against what is installed anyway, beside those on record: half a minute on an idle machine.
bench: $(VENV)/installed
	$(RUN) benchmarks/quick.py

test-classifiers: $(VENV)/installed
	$(RUN) -m pytest classifier_ood tests/ray_test.py tests/recipes_test.py

test-densities: $(VENV)/installed
	$(RUN) -m pytest images_ood genomics_ood tests/old_runs_test.py

test-whole: $(VENV)/installed
	$(RUN) -m pytest ood_suite tests --ignore=tests/ray_test.py --ignore=tests/recipes_test.py --ignore=tests/old_runs_test.py

# Model, training, extraction and resume tests once more on JAX, where there is no TensorFlow.
test-jax: $(JAX_VENV)/installed
	rm -rf "$(COMPILED)"
	KERAS_BACKEND=jax JAX_PLATFORMS=cpu $(JAX_CACHE) $(JAX_VENV)/bin/python -m pytest -m jax -p no:cacheprovider

# The built wheel in fresh environments and an empty folder.
test-wheel: $(VENV)/installed
	$(RUN) -m pytest --run_wheel tests/wheel_test.py

# Only files whose hashes the locks hold. One package (promise) is built, by the setuptools of the lock.
$(VENV)/installed: requirements.lock
	$(PYTHON) -m venv $(VENV)
	sed -n '/^setuptools==/,/# via/p' requirements.lock > $(VENV)/setuptools.lock
	$(VENV)/bin/$(INSTALL) $(VENV)/setuptools.lock
	$(VENV)/bin/$(INSTALL) requirements.lock --no-build-isolation
	touch $@

$(JAX_VENV)/installed: requirements-jax.lock
	$(PYTHON) -m venv $(JAX_VENV)
	$(JAX_VENV)/bin/$(INSTALL) requirements-jax.lock
	touch $@

# The environments. (output/ holds trainings, and stays.)
clean:
	rm -rf $(VENV) $(JAX_VENV)
