"""Density models under evaluation: outputs with those of backgrounds beside them, the choice."""

import dataclasses

import numpy as np

from ood_suite import metrics, scores


class Densities:
    """What a group of density models says of the data sets of its experiment.

    Attributes:
        held_out, validation_ood: Outputs, on which the background is chosen. training: at most
            hashes, no score of a density model learns from it.
        strange: whether the held-out ID set is another one than the training had.
        selection: the validation OOD set too, which the test sets must not share examples with.
        choice: one dict per background model. chosen: the chosen Run or None.
    """

    baseline = "likelihood"
    near = ()
    all_scores = scores.ALL

    def __init__(self, group, extractor, data_dir):
        self.group, self.extractor, self.data_dir = group, extractor, data_dir
        settings = group.foreground.settings
        self.fingerprints = group.foreground.config["fingerprints"]
        self.id_names = (settings["id_dataset"],)
        self.ood_names = tuple(settings["ood_test"])
        validation = tuple(settings["ood_validation"]), settings["ood_validation_split"]
        self.chosen, self.choice, self.validation_ood = None, [], None
        if group.backgrounds:
            self.validation_ood = self._joined(*validation)
            self.chosen, self.choice = self._choose()
            self.validation_ood = self._joined(*validation)
        self.held_out = self._joined(self.id_names, "val")
        self.selection = self.validation_ood
        known = self.fingerprints.get(f"{self.held_out.meta['dataset']}_val")
        self.strange = known not in (None, self.held_out.meta["fingerprint"])
        self.training = None
        if hasattr(extractor, "hashes"):
            self.training = extractor.hashes(group.foreground, self.id_names, "train", data_dir)

    def tests(self, parameters):
        """(Outputs of the ID test set, {data set: Outputs} of the OOD test sets), with maps."""
        return self._joined(self.id_names, "test", maps=True), {
            name: self._joined((name,), "test", maps=True) for name in self.ood_names
        }

    def _of(self, run, names, split, maps=False):
        return self.extractor.extract(run, names, split, self.data_dir, maps)

    def _joined(self, names, split, maps=False):
        """The foreground's Outputs with those of the backgrounds beside them; the chosen one is the
        ratio's.
        """
        outputs = self._of(self.group.foreground, names, split, maps)
        if not self.group.backgrounds:
            return outputs
        backgrounds = [
            self._of(run, names, split, maps and run is self.chosen)
            for run in self.group.backgrounds
        ]
        ratio = backgrounds[self.group.backgrounds.index(self.chosen)] if self.chosen else None
        return dataclasses.replace(
            outputs,
            background_log_probs=np.stack([b.log_prob for b in backgrounds], axis=1),
            background_log_prob=ratio.log_prob if ratio else None,
            background_log_prob_map=ratio.log_prob_map if ratio else None,
        )

    def _choose(self):
        """(chosen run, rows): validation AUROC of the likelihood ratio for every background."""
        id_outputs = self._joined(self.id_names, "val")
        ratio = scores.get("likelihood_ratio").fn
        rows = []
        for column, run in enumerate(self.group.backgrounds):
            counts = metrics.Counts.of(
                *(
                    ratio(o.log_prob, o.background_log_probs[:, column])
                    for o in (id_outputs, self.validation_ood)
                )
            )
            rows.append({
                "background": run.folder.name,
                "mutation_rate": run.settings["mutation_rate"],
                "reg_weight": run.settings["reg_weight"],
                "validation_ood": self.validation_ood.meta["dataset"],
                "validation_auroc": metrics.auroc(counts),
            })  # fmt: skip
        best = int(np.argmax([row["validation_auroc"] for row in rows]))
        return self.group.backgrounds[best], rows
