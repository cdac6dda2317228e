"""A classifier, or an ensemble of them, under evaluation: its outputs on every part of the data."""

import contextlib

from ood_suite import scores
from ood_suite.data.names import parse
from ood_suite.evaluation.material import Material, asked_roles, strangers, test_sets
from ood_suite.outputs import ON_DEMAND
from ood_suite.runs.extraction import Parts, extractor_of
from ood_suite.scores import named

ENOUGH = 1000  # validation OOD examples that recommend a score


def classifier(group, request, wanted, data_dir=None) -> Material:
    """The Material of a classifier.

    Args:
        request: Request, whose test sets, tuning and inner layers decide what is extracted.
        wanted: names of scores, which decide it too.
    """
    run = group.foreground
    source = _Source(run, request, wanted, data_dir)
    searched, epsilons = source.searched(request.tune)
    chooses = request.tune or source.over_layers
    validation_ood = source.of("validation_ood", searched, epsilons) if chooses else None
    selection = validation_ood
    if selection is None and _was_shown(run, source.roles.get("validation_ood")):
        selection = source.hashes("validation_ood")
    training = source.of("training") if source.learned else source.hashes("training")
    held_out = source.of("held_out", searched, epsilons)

    def tests(parameters):
        moved = source.moved_by(parameters)
        return test_sets(lambda role: source.of(role, *moved), source.roles)

    return Material(
        held_out=held_out,
        training=training,
        validation_ood=validation_ood,
        selection=selection,
        tests=tests,
        fingerprints=run.config["fingerprints"],
        baseline="msp",
        scores=source.extractor.SCORES or scores.names(),
        advice=lambda: source.advice() if validation_ood is None else validation_ood,
        notes=strangers(run, training, held_out),
    )


class _Source:
    """What a run gives for its roles: only those outputs that the wanted scores need."""

    def __init__(self, run, request, wanted, data_dir):
        self.run, self.data_dir, self.extractor = run, data_dir, extractor_of(run)
        self.roles = asked_roles(run.roles, request)
        entries = [scores.get(name) for name in wanted]
        learning = [entry for entry in entries if entry.fit_needs and entry.fit_on == "training"]
        self.needed = {field for entry in entries for field in entry.needs}
        self.learned = {field for entry in learning for field in entry.fit_needs}
        plain = [name for name in wanted if len(named.outside(name, "&")) == 1]
        self.rules = perturbation_rules(self.extractor, plain)
        fused = perturbation_rules(self.extractor, [n for n in wanted if n not in plain])
        self.of_fused = perturbations(fused, {})  # whose parameters nothing chooses
        self.layers, self.is_asked_for = tuple(request.inner_layers), bool(request.ood_validation)
        self.of_layers = [name for name in wanted if named.bare(name) == "mahalanobis_layers"]
        self.over_layers = bool(self.layers and self.of_layers)

    def of(self, role, perturbations=(), epsilons=()):
        """Outputs of a role; None if the run has it not."""
        if role not in self.roles:
            return None
        own = self.learned if role == "training" else self.needed
        parts = Parts(
            perturbations=tuple(perturbations),
            inner_layers=self.layers,
            epsilons=tuple(epsilons) if self.over_layers else (),
            fields=tuple(field for field in ON_DEMAND if field in own),
        )
        return self._extracted(self.roles[role].names, self.roles[role].split, parts)

    def hashes(self, role):
        """Hashes of a role's examples; None if they are not there."""
        try:
            role = self.roles[role]
            return self.extractor.hashes(self.run, role.names, role.split, data_dir=self.data_dir)
        except (KeyError, FileNotFoundError):
            return None  # it was there when the run was made

    def searched(self, tune):
        """(perturbations, epsilons of layers) that are looked at before parameters are chosen."""
        steps = self.of_fused + (_grid(self.rules) if tune else perturbations(self.rules, {}))
        if tune:
            return steps, scores.get("mahalanobis_layers").grid["epsilon"]
        return steps, [scores.get(name).parameters["epsilon"] for name in self.of_layers]

    def moved_by(self, parameters):
        """The same for chosen parameters."""
        found = [scores.get(n).parameters | parameters.get(n, {}) for n in self.of_layers]
        epsilons = list(dict.fromkeys(values["epsilon"] for values in found))
        return self.of_fused + perturbations(self.rules, parameters), epsilons or [0.0]

    def advice(self):
        """Outputs of validation OOD data that recommend a score, ENOUGH of them if there are."""
        if "validation_ood" not in self.roles:
            return None
        role = self.roles["validation_ood"]
        some = [name if parse(name).count else f"{name}@{ENOUGH}" for name in role.names]
        with contextlib.suppress(FileNotFoundError, ValueError):  # there are fewer, or it is reads
            return self._extracted(some, role.split)
        try:
            return self._extracted(role.names, role.split)
        except (FileNotFoundError, ValueError):
            if self.is_asked_for:
                raise
            return None

    def _extracted(self, names, split, parts=Parts()):
        return self.extractor.extract(self.run, names, split, data_dir=self.data_dir, parts=parts)


def perturbation_rules(extractor, wanted):
    """{score of perturbed inputs: its rule} among scores, and among the members of fused ones."""
    members = [member for name in wanted for member in named.outside(name, "&")]
    known = extractor.PERTURBED
    return {
        name: scores.get(name).parameters.get("rule", known[named.bare(name)])
        for name in members
        if named.bare(name) in known
    }


def _was_shown(run, role):
    """Whether the run was made with a data set of this role, such as to choose a checkpoint."""
    marks = run.config["fingerprints"]
    return role is not None and any(f"{name}_{role.split}" in marks for name in role.names)


def perturbations(rules, parameters):
    """(temperature, epsilon, rule) of each score of perturbed inputs: chosen, or its defaults."""
    steps = []
    for name, rule in rules.items():
        values = scores.get(name).parameters | parameters.get(name, {})
        steps.append((values["temperature"], values["epsilon"], rule))
    return steps


def _grid(rules):
    """The same for all settings of each grid."""
    rows = [perturbations({n: r}, {n: s}) for n, r in rules.items() for s in scores.get(n).settings]
    return list(dict.fromkeys(step for row in rows for step in row))
