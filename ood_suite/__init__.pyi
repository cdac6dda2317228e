# What the type checker sees of the names that __getattr__ gives.
from ood_suite.detector import Detector as Detector
from ood_suite.evaluation.evaluate import evaluate as evaluate
from ood_suite.files import RunError as RunError
from ood_suite.outputs import Outputs as Outputs
from ood_suite.runs.run import Run as Run
from ood_suite.scores import SCORES as SCORES
from ood_suite.scores import SHAPERS as SHAPERS
from ood_suite.scores import Score as Score

__version__: str
