"""SCORES: the catalogue. Adding a score is one function (or class, if it learns) and one line here;
from outside, an entry point (see ood_suite.plugins).

A plain function maps arrays to scores; a class has `fit(*arrays) -> self` and `score(*arrays)`, and
what it learns ends in an underscore. `needs` and `fit_needs` name the fields of
`ood_suite.outputs.Outputs` that are the arguments, in order. Every score is float64 (n,) and
HIGHER = MORE OOD.

SHAPERS stand before a score of logits, joined by "+": "react+energy", "dice+react+max_logit".
Scores joined by "&" are fused, by their p-values: "energy&vim&knn&mahalanobis". Parameters stand in
brackets: "knn(k=10)", "react(threshold=1.6)+energy".
"""

import difflib
import functools
import inspect
import itertools
from collections.abc import Callable
from typing import NamedTuple

from ood_suite.plugins import added, installed
from ood_suite.scores import (
    activations,
    adascale,
    collapse,
    coverage,
    ensembles,
    feature_maps,
    flows,
    fusion,
    gaussian,
    gradients,
    kernels,
    likelihood,
    logits,
    named,
    neighbors,
    optimal_shaping,
    prototype_gradients,
    prototypes,
    regret,
    reverse_neighbors,
    subspace,
    weiper,
)  # fmt: skip
from ood_suite.scores.presets import PRESETS as PRESETS

GROUP = "ood_suite.scores"  # of entry points
_HEAD = ("head_kernel", "head_bias")
_DENSITY = ("log_prob", "background_log_prob", "code_length")


class Score(NamedTuple):
    """A line of the catalogue: what computes the score, and from which arrays.

    Attributes:
        fn: function of the arrays `needs`, or class whose `score` takes them.
        fit_needs: what its `fit` takes; empty for a function.
        fit_on: "training" or "held_out", the in-distribution data that it learns from.
        grid: {parameter: values} that tuning tries.
        parts: names of shapers and judge, of a composed score; of the members of a fused one.
        given: {parameter: value} that its name says, in place of defaults.
    """

    fn: Callable
    needs: tuple
    fit_needs: tuple = ()
    fit_on: str = "training"
    grid: dict = {}
    parts: tuple = ()
    given: dict = {}

    @property
    def learns(self):
        return bool(self.fit_needs)

    @property
    def parameters(self):
        """{parameter: default, or what the name says}; those of a composed score are called
        "react.percentile".
        """
        return self._defaults() | self.given

    @property
    def judge(self):
        """The entry of the score of logits that a composed score ends in."""
        return _known(SCORES, self.parts[-1], "score")

    def _defaults(self):
        if self.fn is fusion.Fused:
            return {
                f"{name}.{parameter}": value
                for name in self.parts
                for parameter, value in get(name).parameters.items()
            }
        if self.parts:
            entries = [*(SHAPERS[name] for name in self.parts[:-1]), self.judge]
            return {
                f"{part}.{name}": value
                for part, entry in zip(self.parts, entries, strict=True)
                for name, value in entry.parameters.items()
            }
        return {
            name: parameter.default
            for name, parameter in inspect.signature(self.fn).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }

    @property
    def settings(self):
        """All combinations of the grid, as dicts of parameters; the defaults come first."""
        rows = itertools.product(*self.grid.values())
        found = [dict(zip(self.grid, row, strict=True)) for row in rows]
        defaults = {name: self.parameters[name] for name in self.grid}
        return [defaults, *(row for row in found if row != defaults)]

    def make(self, parameters=None):
        """The object that scores: has `score`, or is a function of the arrays `needs`.

        Raises:
            ValueError: an unknown parameter, with the known ones.
        """
        parameters = self.given | named.checked(self.parameters, parameters or {})
        unknown = sorted(set(parameters) - set(self.parameters))
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise ValueError(f"Unknown parameter {unknown[0]!r}. Known: {known}.")
        if self.fn is fusion.Fused:
            return self._fused(parameters)
        if not self.parts:
            fixed = self.fn(**parameters) if inspect.isclass(self.fn) else None
            return fixed or functools.partial(self.fn, **parameters)

        def part(name, entry):
            own = {k.split(".")[1]: v for k, v in parameters.items() if k.split(".")[0] == name}
            return entry.make(own)

        shapers = {name: part(name, SHAPERS[name]) for name in self.parts[:-1]}
        judge = self.judge
        return self.fn(shapers, part(self.parts[-1], judge), judge.fit_needs, judge.fit_on)

    def _fused(self, parameters):
        entries, members = {name: get(name) for name in self.parts}, {}
        for name, entry in entries.items():
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in parameters.items() if k.startswith(prefix)}
            members[name] = entry.make(own)
        needs = {name: entry.needs for name, entry in entries.items()}
        fits = {name: entry.fit_needs for name, entry in entries.items() if entry.learns}
        return self.fn(members, needs, fits, self.needs, self.fit_needs if fits else ())


_ASH = {"percentile": (30.0, 50.0, 65.0, 80.0, 90.0, 95.0)}
_SHAPED = ("features", *_HEAD)
SHAPERS = {
    "ash_b": Score(activations.ash_b, _SHAPED, grid=_ASH),
    "ash_p": Score(activations.ash_p, _SHAPED, grid=_ASH),
    "ash_s": Score(activations.ash_s, _SHAPED, grid=_ASH),
    "dice": Score(
        activations.DICE, _SHAPED, ("features", "head_kernel"),
        grid={"percentile": (10.0, 50.0, 70.0, 90.0, 95.0)},
    ),
    "lts": Score(activations.lts, _SHAPED, grid={"percentile": (80.0, 85.0, 90.0, 95.0)}),
    "optfs": Score(
        optimal_shaping.OptFS, _SHAPED, _SHAPED,
        grid={"bins": (25, 50, 100, 200), "norm": (10.0, 1000.0)},
    ),
    "ras": Score(activations.RAS, _SHAPED, ("features", "head_kernel")),
    "react": Score(
        activations.ReAct, _SHAPED, ("features", "head_kernel"),
        grid={"percentile": (80.0, 85.0, 90.0, 95.0, 99.0)},
    ),
    "scale": Score(
        activations.scale, _SHAPED, grid={"percentile": (65.0, 75.0, 85.0, 90.0, 95.0)}
    ),
    "vra": Score(
        activations.VRA, _SHAPED, ("features", "head_kernel"),
        grid={
            "low_percentile": (5.0, 30.0, 60.0), "high_percentile": (90.0, 95.0, 99.0),
            "per_feature": (True, False),
        },
    ),
}  # fmt: skip

_LEAVE_OUT = {
    "temperature": (1.0, 10.0, 100.0, 1000.0),
    "epsilon": (0.0, 0.0005, 0.001, 0.002, 0.003, 0.004),
}
_MOVED = ("features", "features_perturbed")
_HIGHEST = {"highest": (65.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 99.0)}
SCORES = {
    "adascale_a": Score(adascale.AdaScaleA, (*_MOVED, *_HEAD), _MOVED, "held_out", _HIGHEST),
    "adascale_l": Score(adascale.AdaScaleL, (*_MOVED, *_HEAD), _MOVED, "held_out", _HIGHEST),
    "background_mean": Score(likelihood.background_mean, ("log_prob", "background_log_probs")),
    "cadref": Score(
        collapse.CADRef, ("features", "logits", "head_kernel"), ("features", "logits")
    ),
    "cfood": Score(
        reverse_neighbors.CFOOD, ("features",), ("features",),
        grid={"share": (0.001, 0.005, 0.01, 0.05, 0.1), "references": (1000, 5000)},
    ),
    "class_residual": Score(
        subspace.ClassResidual, ("features",), ("features", "labels"),
        grid={"dimension": (0, 16, 32, 64, 128, 256)},
    ),
    "cop": Score(
        kernels.CoP, ("features",), ("features",),
        grid={"explained": (0.5, 0.7, 0.85, 0.95, 0.99)},
    ),
    "corp": Score(
        kernels.CoRP, ("features",), ("features",),
        grid={"explained": (0.5, 0.7, 0.8, 0.9), "gamma": (0.5, 1.0, 2.0, 4.0)},
    ),
    "ctm": Score(collapse.CTM, ("features",), ("features", "labels")),
    "energy": Score(
        logits.energy, ("logits",), grid={"temperature": (0.5, 1.0, 2.0, 5.0, 10.0, 100.0)}
    ),
    "entropy": Score(logits.entropy, ("logits",)),
    "fdbd": Score(prototypes.FDBD, ("features", "logits", "head_kernel"), ("features",)),
    "flow": Score(
        flows.Flow, ("features",), ("features",),
        grid={"dimension": (16, 32, 64, 128), "normalize": (True, False)},
    ),
    "gen": Score(
        logits.gen, ("logits",), grid={"gamma": (0.01, 0.1, 0.5), "top": (5, 10, 50, 100)}
    ),
    "gmm": Score(
        gaussian.GaussianMixture, ("features",), ("features", "labels"),
        grid={"normalize": (True, False)},
    ),
    "gradient_uncertainty": Score(gradients.gradient_uncertainty, ("features", "logits")),
    "gradnorm": Score(
        gradients.gradnorm, ("features", "logits"), grid={"temperature": (0.5, 1.0, 2.0, 5.0)}
    ),
    "gram": Score(feature_maps.Gram, ("gram_sums", "logits"), ("gram_sums", "logits")),
    "grood": Score(
        prototype_gradients.GrOOD, ("features",), ("features", "labels", "logits"),
        grid={"mixing": (0.1, 0.3, 0.5, 0.7, 0.9)},
    ),
    "himplos": Score(
        prototypes.HIMPLoS, ("features", "logits", *_HEAD), ("features", "labels"),
        grid={
            "mask_percentile": (0.0, 30.0, 60.0, 80.0),
            "clip_percentile": (90.0, 95.0, 98.0, 100.0),
        },
    ),
    "input_complexity": Score(likelihood.input_complexity, ("log_prob", "code_length")),
    "kl_matching": Score(logits.KLMatching, ("logits",), ("logits",), "held_out"),
    "knn": Score(
        neighbors.KNN, ("features",), ("features",), grid={"k": (1, 5, 10, 50, 100, 200)}
    ),
    "leave_out": Score(ensembles.leave_out, ("member_logits",), grid=_LEAVE_OUT),
    "leave_out_odin": Score(ensembles.leave_out_odin, ("member_logits",), grid=_LEAVE_OUT),
    "likelihood": Score(likelihood.likelihood, ("log_prob",)),
    "likelihood_ratio": Score(likelihood.likelihood_ratio, ("log_prob", "background_log_prob")),
    "line": Score(
        prototypes.LINe, ("features", *_HEAD), ("features", "labels", "head_kernel"),
        grid={
            "activation_percentile": (10.0, 30.0, 60.0, 90.0),
            "weight_percentile": (10.0, 30.0, 60.0, 90.0),
        },
    ),
    "mahalanobis": Score(
        gaussian.Mahalanobis, ("features",), ("features", "labels"),
        grid={"normalize": (False, True)},
    ),
    "mahalanobis_layers": Score(
        gaussian.MahalanobisLayers, ("layer_features",), ("layer_features", "labels"),
        grid={"epsilon": (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.005)},
    ),
    "max_logit": Score(logits.max_logit, ("logits",)),
    "msp": Score(logits.msp, ("logits",)),
    "nac": Score(
        coverage.NAC, ("features", "logits", "head_kernel"), ("features", "logits", "head_kernel"),
        grid={
            "edges": (50, 500), "full": (0.01, 0.05, 0.5),
            "steepness": (1.0, 10.0, 50.0, 100.0, 1000.0, 3000.0),
        },
    ),
    "nci": Score(
        prototypes.NCI, ("features", "logits", "head_kernel"), ("features",),
        grid={"alpha": (0.0, 0.0001, 0.001, 0.01, 0.1)},
    ),
    "neco": Score(
        collapse.NECO, ("features", "logits"), ("features", "head_kernel"),
        grid={"dimension": (0, 16, 32, 64, 128, 256), "with_logit": (True, False)},
    ),
    "nnguide": Score(
        neighbors.NNGuide, ("features", "logits"), ("features", "logits"),
        grid={"k": (1, 5, 10, 50, 100)},
    ),
    "odin": Score(
        gradients.odin, ("logits_perturbed",),
        grid={
            "temperature": (1.0, 10.0, 100.0, 1000.0),
            "epsilon": (0.0, 0.0005, 0.001, 0.0014, 0.002, 0.004, 0.01),
        },
    ),
    "openmax": Score(
        logits.OpenMax, ("logits",), ("logits", "labels"),
        grid={"tail": (10, 20, 50), "alpha": (1, 3, 5, 10)},
    ),
    "pnml": Score(regret.PNML, ("features", *_HEAD), ("features",)),
    "rankfeat": Score(
        feature_maps.rankfeat, ("features", "rank_one", *_HEAD),
        grid={"temperature": (0.5, 1.0, 2.0, 5.0)},
    ),
    "relation": Score(
        neighbors.Relation, ("features", "logits"), ("features", "logits"),
        grid={"power": (0.5, 1.0, 2.0, 4.0, 8.0)},
    ),
    "relative_mahalanobis": Score(
        gaussian.RelativeMahalanobis, ("features",), ("features", "labels"),
        grid={"normalize": (False, True)},
    ),
    "residual": Score(
        subspace.Residual, ("features",), ("features", *_HEAD),
        grid={"dimension": (0, 16, 32, 64, 128, 256, 512, 1000)},
    ),
    "she": Score(prototypes.SHE, ("features", "logits"), ("features", "labels", "logits")),
    "temperature_scaling": Score(
        logits.TemperatureScaling, ("logits",), ("logits", "labels"), "held_out"
    ),
    "two_sided_fisher": Score(
        likelihood.TwoSidedFisher, _DENSITY, _DENSITY, "held_out"
    ),
    "typicality": Score(likelihood.Typicality, ("log_prob",), ("log_prob",), "held_out"),
    "vim": Score(
        subspace.Vim, ("features", "logits"), ("features", "logits", *_HEAD),
        grid={"dimension": (0, 16, 32, 64, 128, 256, 512, 1000)},
    ),
    "weiper": Score(
        weiper.WeiPer, ("features",), ("features", *_HEAD),
        grid={"logits_weight": (0.1, 1.0, 5.0), "msp_weight": (0.1, 1.0, 5.0)},
    ),
}  # fmt: skip
# What "all" stands for: the catalogue, each shaper before the energy, and one fusion.
FUSION = "energy&vim&knn&mahalanobis"
ALL = (*SCORES, *(f"{shaper}+energy" for shaper in SHAPERS), FUSION)


def names():
    """ALL, and the scores that installed packages add."""
    return (*ALL, *(name for name in installed(GROUP) if name not in SCORES))


def read(texts):
    """Names of scores as `get` takes them, of what a command line says; see named.read."""
    return named.read(texts, ("all", *SHAPERS, *SCORES, *installed(GROUP)))


def get(name):
    """The score of that name, composed if it has a "+", fused if it has a "&", with the parameters
    that stand in brackets; ValueError lists the known names, or parameters.
    """
    if len(named.outside(name, "&")) > 1:
        return _fusion(name)
    *shapers, last = [named.parse(part) for part in named.outside(name, "+")]
    if not shapers:
        bare, given = last
        if bare in SHAPERS:
            raise ValueError(f"{bare} shapes features: it needs a score of logits, {bare}+energy.")
        return _with(given, _known(SCORES, bare, "score"), bare)
    return _composed(name, shapers, last)


def _with(given, entry, name):
    """The entry with parameters in place of its defaults, checked."""
    unknown = sorted(set(given) - set(entry.parameters))
    if unknown:
        known = ", ".join(entry.parameters) or "none"
        raise ValueError(f"Unknown parameter {unknown[0]!r} of {name}. Known: {known}.")
    return entry._replace(given=named.checked(entry.parameters, given))


def _composed(name, shapers, last):
    """Of (name, parameters) of each shaper, and of the judge."""
    entries = [_with(given, _known(SHAPERS, n, "shaper"), n) for n, given in shapers]
    judge = _with(last[1], _known(SCORES, last[0], "score"), last[0])
    parts = tuple(n for n, _ in (*shapers, last))
    if judge.needs != ("logits",) or len(set(parts[:-1])) < len(shapers):
        able = [n for n, score in SCORES.items() if score.needs == ("logits",)]
        raise ValueError(
            f"{name!r} must be different shapers and one score of logits alone, of "
            f"{', '.join(able)}."
        )
    shaped = any(entry.learns for entry in entries)
    grid = {
        f"{part}.{parameter}": values
        for part, entry in zip(parts, [*entries, judge._replace(grid={})], strict=True)
        for parameter, values in entry.grid.items()
    }
    given = {
        f"{part}.{parameter}": value
        for part, entry in zip(parts, [*entries, judge], strict=True)
        for parameter, value in entry.given.items()
    }
    needs = ("features", *_HEAD)
    fit_needs = needs if shaped or judge.learns else ()
    fit_on = "training" if shaped else judge.fit_on
    return Score(activations.Shaped, needs, fit_needs, fit_on, grid, parts, given)


def _fusion(name):
    parts = tuple(named.outside(name, "&"))
    entries = [get(part) for part in parts]
    judges = [entry.judge if entry.parts else entry for entry in entries]
    for part, entry, judge in zip(parts, entries, judges, strict=True):
        held_out = judge.learns and judge.fit_on == "held_out"
        if held_out or hasattr(entry.fn, "fit_validation") or hasattr(entry.fn, "fit_held_out"):
            raise ValueError(
                f"{part} cannot be fused: it learns from more than training data, which the "
                "p-values of held-out data must not see."
            )
    if len({part.replace(" ", "") for part in parts}) < len(parts):
        raise ValueError(f"{name!r} must fuse different scores.")
    needs = tuple(dict.fromkeys(field for entry in entries for field in entry.needs))
    learned = [field for entry in entries for field in entry.fit_needs]
    learned += ["labels" for judge in judges if "labels" in judge.fit_needs]
    fit_needs = tuple(dict.fromkeys(learned))
    if not fit_needs:  # no member learns: the p-values do
        return Score(fusion.Fused, needs, needs, "held_out", parts=parts)
    return Score(fusion.Fused, needs, fit_needs, parts=parts)


def _known(catalogue, name, kind):
    if name in catalogue:
        return catalogue[name]
    from_outside = added(GROUP, name, Score) if catalogue is SCORES else None
    if from_outside is None:
        known = [*catalogue, *(installed(GROUP) if catalogue is SCORES else ())]
        close = difflib.get_close_matches(name.lower(), known, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise ValueError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
    return from_outside
