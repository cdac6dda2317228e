"""Densities of DNA reads: words that are counted, a network, and its ratio to a background.

    python examples/dna_reads.py

Small enough for half a minute: `make demo-genomics` trains longer, docs/genomics.md says what it
takes.
"""

import dataclasses

from genomics_ood import configs, density_run, kmer_run
from ood_suite import metrics, scores
from ood_suite.runs.extraction import extractor_of

words = kmer_run.train(configs.EXPERIMENTS["bacteria_kmers"], "bacteria_kmers", "output/examples")
experiment = dataclasses.replace(
    configs.EXPERIMENTS["bacteria"], total_steps=60, background_steps=0, eval_every=30,
    eval_reads=100, units=16,
)  # fmt: skip
mutated = dataclasses.replace(experiment, mutation_rate=0.2)
foreground, background = (
    density_run.train(settings, "bacteria", "output/examples") for settings in (experiment, mutated)
)

for title, runs in (
    ("likelihood, words", [words]),
    ("likelihood, network", [foreground]),
    ("likelihood_ratio, network", [foreground, background]),
):
    function = scores.get(title.partition(",")[0]).fn
    pair = (
        function(*(extractor_of(run).extract(run, (name,), "val").log_prob for run in runs))
        for name in ("bacteria", "bacteria_ood")
    )
    print(f"{title:<26} AUROC {metrics.auroc(metrics.Counts.of(*pair)):.3f} (unknown genera)")
