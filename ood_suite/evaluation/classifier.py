"""A classifier, or an ensemble of them, under evaluation: its outputs on every part of the data."""

from ood_suite import scores
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
    run, extractor = group.foreground, extractor_of(group.foreground)
    roles = asked_roles(run.roles, request)
    moved = [name for name in wanted if named.bare(name) in extractor.PERTURBED]
    rules = {name: extractor.PERTURBED[named.bare(name)] for name in moved}
    entries = [scores.get(name) for name in wanted]
    learning = [entry for entry in entries if entry.fit_needs and entry.fit_on == "training"]
    needed = {field for entry in entries for field in entry.needs}
    learned = {field for entry in learning for field in entry.fit_needs}
    layers = tuple(request.inner_layers)
    of_layers = [name for name in wanted if named.bare(name) == "mahalanobis_layers"]
    over_layers = layers and of_layers

    def of(role, perturbations=(), epsilons=()):
        if role not in roles:
            return None
        own = learned if role == "training" else needed
        parts = Parts(
            perturbations=tuple(perturbations),
            inner_layers=layers,
            epsilons=tuple(epsilons) if over_layers else (),
            fields=tuple(field for field in ON_DEMAND if field in own),
        )
        role = roles[role]
        return extractor.extract(run, role.names, role.split, data_dir=data_dir, parts=parts)

    def hashes(role):
        try:
            role = roles[role]
            return extractor.hashes(run, role.names, role.split, data_dir=data_dir)
        except (KeyError, FileNotFoundError):
            return None  # it was there when the run was made

    searched = _grid(rules) if request.tune else _steps(rules, {})
    asked = [scores.get(name).parameters["epsilon"] for name in of_layers]
    epsilons = scores.get("mahalanobis_layers").grid["epsilon"] if request.tune else asked
    chooses = request.tune or over_layers
    validation_ood = of("validation_ood", searched, epsilons) if chooses else None
    selection = validation_ood
    if selection is None and _was_shown(run, roles.get("validation_ood")):
        selection = hashes("validation_ood")

    def tests(parameters):
        steps = _steps(rules, parameters)
        found = [scores.get(n).parameters | parameters.get(n, {}) for n in of_layers]
        moves = dict.fromkeys(values["epsilon"] for values in found)
        return test_sets(lambda role: of(role, steps, moves or [0.0]), roles)

    def advice():
        if validation_ood is not None or "validation_ood" not in roles:
            return validation_ood
        names, split = roles["validation_ood"].names, roles["validation_ood"].split
        for some in ([f"{name}@{ENOUGH}" for name in names], names):
            try:
                return extractor.extract(run, some, split, data_dir=data_dir)
            except FileNotFoundError:
                return None
            except ValueError:  # there are fewer
                continue

    training = of("training") if learning else hashes("training")
    held_out = of("held_out", searched, epsilons)
    return Material(
        held_out=held_out,
        training=training,
        validation_ood=validation_ood,
        selection=selection,
        tests=tests,
        fingerprints=run.config["fingerprints"],
        baseline="msp",
        scores=extractor.SCORES or scores.names(),
        advice=advice,
        notes=strangers(run, training, held_out),
    )


def _was_shown(run, role):
    """Whether the run was made with a data set of this role, such as to choose a checkpoint."""
    marks = run.config["fingerprints"]
    return role is not None and any(f"{name}_{role.split}" in marks for name in role.names)


def _steps(rules, parameters):
    """(temperature, epsilon, rule) of each score of perturbed inputs: chosen, or its defaults."""
    steps = []
    for name, rule in rules.items():
        values = scores.get(name).parameters | parameters.get(name, {})
        steps.append((values["temperature"], values["epsilon"], rule))
    return steps


def _grid(rules):
    """The same for all settings of each grid."""
    rows = [_steps({n: r}, {n: s}) for n, r in rules.items() for s in scores.get(n).settings]
    return list(dict.fromkeys(step for row in rows for step in row))
