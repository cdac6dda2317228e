"""A classifier under evaluation: its outputs on every data set of its run, and the tuning of scores
on validation data.
"""

from ood_suite import scores


class Classifier:
    """What a classifier says of the data sets of its run.

    Args:
        group: whose foreground is the run. extractor: its module. data_dir: of the data sets.
        wanted: names of scores, which decide what has to be extracted.
        tune: whether the grids of these scores will be searched.
        inner_layers: layers for scores of several layers.
        near, far: OOD test sets in place of the run's.

    Attributes:
        training, held_out, validation_ood: Outputs, or None where the run names no such data.
        fingerprints: {data set: fingerprint} of what the run was made with.
        all_scores: names of the scores that make sense for such a run.
        perturbed: {score that needs perturbed inputs: its rule, None for the extractor's}.
        selection: Outputs of what chose checkpoints in the training, for checks of overlap.
        near: names of the OOD test sets that are near to the ID set.
    """

    baseline = "msp"
    choice, chosen = [], None

    def __init__(self, group, extractor, data_dir, wanted, tune, inner_layers, near, far):
        self.run, self.extractor, self.data_dir = group.foreground, extractor, data_dir
        self.fingerprints = self.run.config["fingerprints"]
        self.all_scores = getattr(extractor, "SCORES", scores.ALL)
        self.roles = extractor.data_sets(self.run.settings)
        if near or far:
            kept = {k: v for k, v in self.roles.items() if not k.startswith("ood:")}
            self.roles = kept | {f"ood:{name}": ((name,), "test") for name in [*near, *far]}
        self.near = tuple(near or () if near or far else self.run.settings["ood_near"])
        self.inner_layers = tuple(inner_layers)
        perturbed = getattr(extractor, "PERTURBED", {"odin": None})
        self.perturbed = {name: rule for name, rule in perturbed.items() if name in wanted}
        self.uses_layers = bool(inner_layers) and "mahalanobis_layers" in wanted
        odin = self._grid() if tune else self._steps({})
        epsilons = scores.get("mahalanobis_layers").grid["epsilon"] if tune else ()
        self.training = self._training(wanted)
        self.held_out = self._outputs("held_out", odin, epsilons)
        self.validation_ood = None
        if tune or self.uses_layers:
            self.validation_ood = self._outputs("validation_ood", odin, epsilons)
        self.selection = self.validation_ood or self._selection()

    def tests(self, parameters):
        """(Outputs of the ID test set, {data set: Outputs} of the OOD test sets).

        Args:
            parameters: {score: its parameters}, of which ODIN's decide what is extracted.
        """
        odin = self._steps(parameters)
        epsilon = parameters.get("mahalanobis_layers", {}).get("epsilon", 0.0)
        found = {
            role: self._outputs(role, odin, [epsilon])
            for role in self.roles
            if role == "id_test" or role.startswith("ood:")
        }
        id_test = found.pop("id_test")
        names = {role: outputs.meta["dataset"] for role, outputs in found.items()}
        known = [id_test.meta["dataset"], *names.values()]
        if len(set(known)) < len(known):
            raise ValueError(f"Two test sets have the same name: {', '.join(known)}. Rename one.")
        self.near = tuple(names.get(f"ood:{name}", name) for name in self.near)
        return id_test, {names[role]: outputs for role, outputs in found.items()}

    def _steps(self, parameters):
        """(temperature, epsilon) of each perturbed score, or with the rule if it has one: chosen,
        or its defaults.
        """
        found = []
        for name, rule in self.perturbed.items():
            values = scores.get(name).parameters | parameters.get(name, {})
            step = values["temperature"], values["epsilon"]
            found.append((*step, rule) if rule else step)
        return found

    def _grid(self):
        """The same for all settings of each grid."""
        names = self.perturbed
        rows = [self._steps({name: s}) for name in names for s in scores.get(name).settings]
        return list(dict.fromkeys(step for row in rows for step in row))

    def _selection(self):
        """Labels and hashes of the validation OOD set, if the run was made with one."""
        names, split = self.roles.get("validation_ood", ((), ""))
        if not any(f"{name}_{split}" in self.fingerprints for name in names):
            return None
        try:
            return self.extractor.hashes(self.run, names, split, self.data_dir)
        except FileNotFoundError:
            return None  # it was there when the run was made

    def _training(self, wanted):
        """Outputs of the training set; no more than hashes if no score learns from them."""
        entries = [scores.get(name) for name in wanted]
        if any(entry.fit_needs and entry.fit_on == "training" for entry in entries):
            return self._outputs("training", (), ())
        if "training" not in self.roles:
            return None
        names, split = self.roles["training"]
        try:
            return self.extractor.hashes(self.run, names, split, self.data_dir)
        except FileNotFoundError:
            return None  # it was there when the run was made

    def _outputs(self, role, odin, epsilons):
        if role not in self.roles:
            return None
        names, split = self.roles[role]
        layers = self.inner_layers if self.uses_layers else ()
        return self.extractor.extract(
            self.run, names, split, self.data_dir, odin, layers,
            epsilons if self.uses_layers else (),
        )  # fmt: skip
