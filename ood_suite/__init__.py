"""Out-of-distribution detection on Keras 3 and TensorFlow.

>>> from ood_suite import Detector, Outputs
>>> held_out = Outputs(logits=np.random.default_rng(0).normal(0.0, 3.0, (200, 10)))
>>> detector = Detector("energy").fit(held_out)          # the threshold accepts 95% of them
>>> bool(detector.is_ood(Outputs(logits=np.zeros((1, 10))))[0])
True

Names are imported when they are first used: this package alone loads no framework.
"""

import importlib

# Public name -> the module that it lives in.
PUBLIC = {
    "SCORES": "ood_suite.scores",
    "SHAPERS": "ood_suite.scores",
    "Detector": "ood_suite.detector",
    "Outputs": "ood_suite.outputs",
    "Run": "ood_suite.runs.run",
    "RunError": "ood_suite.files",
    "Score": "ood_suite.scores",
    "evaluate": "ood_suite.evaluation.evaluate",
}
__all__ = sorted(PUBLIC)
__version__ = "0.2.0"


def __getattr__(name):
    if name not in PUBLIC:
        raise AttributeError(f"ood_suite has no {name!r}. It has: {', '.join(__all__)}.")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__():
    return [*__all__, "__version__"]
