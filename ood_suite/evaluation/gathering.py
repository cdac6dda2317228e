"""Which scores a request means for a run, and the material that they need."""

import dataclasses

from ood_suite import scores
from ood_suite.evaluation.classifier import classifier
from ood_suite.evaluation.densities import density
from ood_suite.evaluation.overlap import require_separate
from ood_suite.evaluation.request import ALL
from ood_suite.outputs import ON_DEMAND
from ood_suite.runs.extraction import extractor_of
from ood_suite.scores import named


def completed(request):
    """The request with names of scores as the catalogue writes them; beside "all" stand only those
    that it leaves out, and those with parameters.

    Raises:
        ValueError: an unknown score or parameter, or parameters that something else chooses too.
    """
    names = scores.read(request.scores) if request.scores else ()
    (baseline,) = scores.read([request.baseline]) if request.baseline else (None,)
    for name in (*names, *filter(None, [baseline])):
        if name != "all":
            scores.get(name)
    given = [name for name in (*names, baseline) if name and "(" in name]
    if given and (request.tune or request.preset):
        flag = "--tune" if request.tune else "--preset"
        raise ValueError(f"{flag} and {given[0]} both choose parameters: leave one out.")
    if "all" in names:  # and what it leaves out, if that is asked for by name
        covered = {"all", *(n for n in scores.names() if not needs_on_demand(n))}
        names = (*ALL, *(n for n in names if n not in covered))
    return dataclasses.replace(request, scores=names, baseline=baseline)


def gather(group, request, data_dir=None):
    """The Material of a group, by the kind of its run.

    Raises:
        ValueError: what is asked for is not for such a run, or a score is unknown.
    """
    run = group.foreground
    extractor = extractor_of(run)
    if run.config["extractor"].startswith("genomics_ood"):
        for name in ("ood_shifted", "unit_tests"):
            if getattr(request, name):
                raise ValueError(f"--{name} is for models of images.")
    require_separate(run, request, bool(group.backgrounds) or request.tune, data_dir)
    if run.kind == "density":
        for name in ("tune", "preset", "inner_layers"):
            if getattr(request, name):
                raise ValueError(f"--{name} is for classifiers.")
        return density(group, request, data_dir=data_dir)
    if run.kind == "member":
        raise ValueError(
            f"{run.folder} is a member of an ensemble, and knows only some of the classes. "
            f"Evaluate the ensemble: --run={run.folder.parent}."
        )
    own, wanted = extractor.SCORES, request.scores
    if wanted[:1] == ALL:
        everything = own or scores.names()
        wanted = (*(n for n in everything if not needs_on_demand(n)), *wanted[1:])
    if request.baseline and request.baseline not in wanted:
        wanted = (*wanted, request.baseline)
    if request.optional and own:
        wanted = tuple(name for name in wanted if named.bare(name) in own)
    for name in wanted:
        if own and named.bare(name) not in own:
            raise ValueError(f"{run.folder} has the scores {', '.join(own)}. Received: {name}.")
    if of_layers(request.scores) and not request.inner_layers:
        request = dataclasses.replace(request, inner_layers=("usual",))
    if request.inner_layers and not of_layers(wanted):
        raise ValueError("--inner_layers has no effect without mahalanobis_layers or gram.")
    return classifier(group, request, wanted, data_dir)


def applicable_scores(material, wanted):
    """Names of scores whose arrays are there; a score asked for by name must be."""
    if not wanted:
        raise ValueError(f"--scores is empty. Known: all, {', '.join(scores.names())}.")
    more = [name for name in wanted if name not in ALL]
    for name in more:
        material.held_out.require(scores.get(name).needs, name)
    if wanted[:1] != ALL:
        return wanted
    names = dict.fromkeys((*material.scores, *more))
    return [name for name in names if _applies(scores.get(name), material)]


def names_of(material, request):
    """(scores to evaluate, the baseline, which is among them if it can be)."""
    wanted, possible = request.scores, applicable_scores(material, ALL)
    if request.optional:
        wanted = tuple(name for name in wanted if _is_possible(name, material))
        if not wanted:
            known = ", ".join(request.scores)
            raise ValueError(f"The run has none of the protocol's scores: {known}.")
    names = applicable_scores(material, wanted)
    if request.baseline and not _applies(scores.get(request.baseline), material):
        raise ValueError(f"--baseline={request.baseline} has not the outputs that it needs.")
    baseline = request.baseline or material.baseline
    if baseline not in names and (request.baseline or baseline in possible):
        names = [baseline, *names]
    return names, baseline


def is_strict(request):
    """Whether a score that cannot be fitted is an error."""
    return request.scores[:1] != ALL and not request.optional


def of_layers(names):
    """Those of these scores that look at inner layers."""
    return {"mahalanobis_layers", "gram"} & {named.bare(name) for name in names}


def needs_on_demand(name):
    """Whether "all" leaves a score out, because it needs what is only extracted on demand."""
    return bool(set(scores.get(name).needs) & set(ON_DEMAND))


def _applies(entry, material):
    fit_data = material.training if entry.fit_on == "training" else material.held_out
    pairs = [(material.held_out, entry.needs), (fit_data, entry.fit_needs)]
    if "layer_features" in entry.needs and material.validation_ood is None:
        return False
    backgrounds = material.held_out.background_log_probs
    if "background_log_probs" in entry.needs and backgrounds is not None:
        if backgrounds.shape[1] < 2:  # the mean over one is likelihood_ratio again
            return False
    return all(
        outputs is not None and all(getattr(outputs, field) is not None for field in fields)
        for outputs, fields in pairs
        if fields
    )


def _is_possible(name, material):
    """Whether a score that a protocol has is one for such a run."""
    return named.bare(name) in material.scores and _applies(scores.get(name), material)
