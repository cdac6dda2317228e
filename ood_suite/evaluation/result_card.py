"""What a reader needs to trust or repeat a result, in one file, and its line of a leaderboard."""

import hashlib

import numpy as np

from ood_suite.evaluation import verdict
from ood_suite.files import write_csv, write_json
from ood_suite.runs.run import Run, versions

METRICS = ("auroc", "fpr95_id_positive", "fpr95_ood_positive")
NONE = "/"  # what OpenOOD writes where there is nothing
# What OpenOOD calls the scores that it has; all others go by our names.
POSTPROCESSORS = {
    "ash_b+energy": "ASH", "cfood": "CFOOD", "dice+energy": "DICE", "energy": "EBO", "fdbd": "fDBD",
    "gen": "GEN", "gradnorm": "GradNorm", "gram": "Gram", "kl_matching": "KLM", "knn": "KNN",
    "mahalanobis": "MDS", "mahalanobis_layers": "MDSEns", "max_logit": "MLS", "msp": "MSP",
    "nac": "NAC", "nci": "NCI", "nnguide": "NNGuide", "odin": "ODIN", "openmax": "OpenMax",
    "rankfeat": "RankFeat", "react+energy": "ReAct", "relation": "Relation",
    "relative_mahalanobis": "RMDS", "scale+energy": "SCALE", "she": "SHE",
    "temperature_scaling": "TempScale", "vim": "VIM", "weiper": "WeiPer+KLD",
}  # fmt: skip
TRAININGS = {"logit": "LogitNorm", "feature": "T2FNorm"}  # of the setting `normalization`


def write(folder, groups, reports):
    """Writes result_card.json, and of classifiers leaderboard.csv.

    Args:
        groups: groups.Group of each repeat. reports: report.GroupReport of each.
    """
    write_json(folder / "result_card.json", card(groups, reports))
    lines = leaderboard(groups[0].foreground, reports)
    if lines:
        write_csv(folder / "leaderboard.csv", lines)


def card(groups, reports) -> dict:
    """Models with the SHA-256 of their files, seeds, versions, data with sizes and fingerprints,
    and of each score and OOD set both FPR95 and the AUROC as [value, low, high].
    """
    return {
        "versions_of_evaluation": versions(),
        "repeats": [
            {
                "repeat": report.repeat_id,
                "models": [_model(run) for run in (group.foreground, *group.backgrounds)],
                "chosen_background": report.chosen,
                "data": report.data,
                "classifier": report.classifier,
                "baseline": report.baseline,
                "tuned": report.tuned,
                "results": _results(report),
                "notes": report.notes,
            }
            for group, report in zip(groups, reports, strict=True)
        ],
    }


def _model(run):
    parts = {part.name: Run.load(part, run.checkpoint).model_path for part in run.parts}
    files = parts or {run.model_path.name: run.model_path}
    settings = run.settings
    return {
        "run": run.folder.name,
        "kind": run.kind,
        "checkpoint": run.checkpoint,
        "sha256": {name: _sha256(path) for name, path in files.items()},
        "seeds": {key: v for key, v in settings.items() if "seed" in key or key == "repeat_id"},
        "fingerprints": run.config["fingerprints"],
        "versions": run.config["versions"],
        "git_commit": run.config["git_commit"],
    }


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _results(report):
    found: dict[str, dict] = {}
    for row in (row for row in report.rows if "num_ood" in row):
        of_score = found.setdefault(
            row["score"], {"threshold": row["threshold"], "accepted": row["accepted"], "ood": {}}
        )
        of_score["ood"][row["ood"]] = {"near": row["ood"] in report.near} | {
            metric: [row[metric], row[f"{metric}_low"], row[f"{metric}_high"]] for metric in METRICS
        }
    return found


def leaderboard(run, reports) -> list[dict]:
    """Lines with the columns of OpenOOD v1.5's leaderboard, one per score: AUROC of near and far
    OOD sets and accuracy in per cent, mean and standard deviation over the repeats that have the
    score; the description says where these are not all. Empty for density models.

    Only those of OpenOOD's own data sets, lists and networks belong in its tables.
    """
    if "accuracy" not in reports[0].classifier:
        return []
    settings = run.settings
    training = settings.get("oe_method") or TRAININGS.get(settings.get("normalization"))
    common = {
        "ID_Accuracy": _percent([report.classifier["accuracy"] for report in reports]),
        "Outlier_Data": "Yes" if settings.get("outliers") else "No",
        "Arch": settings.get("backbone") or run.kind,
    }
    lines = []
    for score in verdict.names_of(reports):
        own = [r for r in reports if any(row["score"] == score for row in r.rows)]
        some = [f"{len(own)} of {len(reports)} repeats"] if len(own) < len(reports) else []
        lines.append(
            {
                "Training": training or "CrossEntropy",
                "Postprocessor": POSTPROCESSORS.get(score, score),
                "Near-OOD_AUROC": _percent([_mean(report, score, near=True) for report in own]),
                "Far-OOD_AUROC": _percent([_mean(report, score, near=False) for report in own]),
            }
            | common
            | {"Additional_Description": "; ".join(_described(settings) + some) or NONE}
        )
    return lines


def _described(settings):
    parts = [f"{settings['epochs']} epochs"] if settings.get("epochs") else []
    return parts + ([f"Unleashing Mask {settings['um']:g}"] if settings.get("um") else [])


def _mean(report, score, near):
    own = [r for r in report.rows if r["score"] == score and "num_ood" in r]
    return [r["auroc"] for r in own if (r["ood"] in report.near) == near]


def _percent(values):
    """Mean and deviation of one value, or of a mean of several, a repeat."""
    if any(np.size(value) == 0 for value in values):
        return NONE
    found = [100.0 * float(np.mean(value)) for value in values]
    spread = f" ± {np.std(found, ddof=1):.2f}" if len(found) > 1 else ""
    return f"{np.mean(found):.2f}{spread}"


def data_of(material, tests):
    """Name, split, size and fingerprint of every part of the data."""
    parts = {
        "training": material.training, "held_out": material.held_out, "id_test": tests.id_test,
        "validation_ood": material.validation_ood,
    } | {f"ood:{name}": outputs for name, outputs in tests.ood.items()}  # fmt: skip
    known = ("dataset", "split", "fingerprint")
    return {
        part: {key: outputs.meta[key] for key in known if key in outputs.meta} | {"n": len(outputs)}
        for part, outputs in parts.items()
        if outputs is not None
    }
