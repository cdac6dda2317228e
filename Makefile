PYTHON ?= python3.11
VENV := .venv
JAX_VENV := .venv-jax
RUN := $(VENV)/bin/python
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo demo-genomics test test-classifiers test-densities test-jax lint clean

# Train small density models and a classifier on the embedded data, evaluate both, write the reports.
demo: $(VENV)/installed
	$(RUN) -m images_ood.sweep --exp=fashion_small
	$(RUN) -m ood_suite.eval --run=output/images_ood/fashion_small
	$(RUN) -m classifier_ood.train --exp=fashion
	$(RUN) -m ood_suite.eval --run=output/classifier_ood/fashion/convnet
	@echo "Open output/images_ood/fashion_small/report/report.html"
	@echo "and output/classifier_ood/fashion/convnet/report/report.html"

# The same for DNA reads: densities, a motif classifier, and reads screened.
demo-genomics: $(VENV)/installed
	$(RUN) -m genomics_ood.sweep --exp=bacteria
	$(RUN) -m ood_suite.eval --run=output/genomics_ood/bacteria
	$(RUN) -m genomics_ood.train_classifier --exp=bacteria
	$(RUN) -m ood_suite.eval --run=output/genomics_ood/bacteria_classifier/motif_cnn
	@echo "Open output/genomics_ood/bacteria/report/report.html"

# Two at a time: the tests of the classifiers and of the whole, all others, those on JAX.
test: $(VENV)/installed $(JAX_VENV)/installed
	$(RUN) -m ruff check .
	$(MAKE) --jobs=2 --keep-going test-classifiers test-densities test-jax

test-classifiers: $(VENV)/installed
	$(RUN) -m pytest classifier_ood tests

test-densities: $(VENV)/installed
	$(RUN) -m pytest images_ood genomics_ood ood_suite

# Model, training, extraction and resume tests once more on JAX, where there is no TensorFlow.
test-jax: $(JAX_VENV)/installed
	KERAS_BACKEND=jax JAX_PLATFORMS=cpu $(JAX_VENV)/bin/python -m pytest -m jax -p no:cacheprovider

$(VENV)/installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(JAX_VENV)/installed: requirements-jax.txt
	$(PYTHON) -m venv $(JAX_VENV)
	$(JAX_VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements-jax.txt
	touch $@

lint: $(VENV)/installed
	$(RUN) -m ruff check .

clean:
	rm -rf $(VENV) $(JAX_VENV) output/images_ood output/genomics_ood output/classifier_ood
