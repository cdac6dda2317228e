"""Trains a foreground model and the grid of background models: mutation_rates x reg_weights x
repeats.

    python -m genomics_ood.sweep --exp=bacteria
    python -m genomics_ood.sweep --exp=bacteria --mutation_rates=0.05,0.1,0.2 --reg_weights=0,0.0001

What is finished is skipped, what was cut continues, and a run that fails does not stop the others.
"""

from genomics_ood import train
from ood_suite.runs import sweep

if __name__ == "__main__":
    sweep.run(train)
