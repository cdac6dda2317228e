"""A density of DNA reads, a background model, and the ratio of the two.

    python examples/dna_reads.py

Small enough for half a minute: `make demo-genomics` trains longer, docs/genomics.md says what it
takes.
"""

import dataclasses

from genomics_ood import configs, density_run, extract
from ood_suite import metrics, scores

experiment = dataclasses.replace(
    configs.EXPERIMENTS["bacteria"], total_steps=60, background_steps=0, eval_every=30,
    eval_reads=100, units=16,
)  # fmt: skip
mutated = dataclasses.replace(experiment, mutation_rate=0.2)
foreground, background = (
    density_run.train(settings, "bacteria", "output/examples") for settings in (experiment, mutated)
)

said = {
    (name, run.folder.name): extract.extract(run, (name,), "val").log_prob
    for name in ("bacteria", "bacteria_ood")
    for run in (foreground, background)
}
ours, theirs = foreground.folder.name, background.folder.name
for title, names in (("likelihood", [ours]), ("likelihood_ratio", [ours, theirs])):
    function = scores.get(title).fn
    pair = (
        function(*(said[data, name] for name in names)) for data in ("bacteria", "bacteria_ood")
    )
    print(f"{title:<17} AUROC {metrics.auroc(metrics.Counts.of(*pair)):.3f} (unknown genera)")
