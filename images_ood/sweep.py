"""Trains a foreground model and the grid of background models: mutation_rates x reg_weights x
repeats.

    python -m images_ood.sweep --exp=fashion_small
    python -m images_ood.sweep --exp=fashion --mutation_rates=0.1,0.2,0.3 --reg_weights=0,10,100
    --repeats=10

What is finished is skipped, what was cut continues, and a run that fails does not stop the others.
"""

from images_ood import train
from ood_suite.runs import sweep

if __name__ == "__main__":
    sweep.run(train)
