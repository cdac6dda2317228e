"""PROTOCOLS: what papers evaluate, with which sets, transforms and parameters, and what they found.

A protocol's published numbers stand beside ours in the table of `python -m ood_suite.benchmark`.
Sources: Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019, recalled
from its tables and not read again, so that they are targets and no quotations; the README of
"Unleashing Mask" (ICML 2023, ZFancy/Unleashing-Mask), CIFAR-10 alone; the table of Vyas et al.,
"Out-of-Distribution Detection Using an Ensemble of Self Supervised Leave-out Classifiers", ECCV
2018, from transcriptions, and the README of a port of it (YU1ut/Ensemble-of-Leave-out-Classifiers).
OpenOOD's leaderboard (Jingkang50/OpenOOD, results/*.csv). HIMPLoS's tables were not at hand: beside
its protocols on CIFAR stand the means of DICE's table, of the same network and sets, recalled as
well.
"""

import dataclasses
import types
from collections.abc import Mapping

MEAN = "mean"  # over a protocol's OOD sets, in the place of a set
NEAR, FAR = "mean near", "mean far"  # over the near ones, and the far ones
ID = "id"  # what is said of the ID test set
_ID_POSITIVE, _OOD_POSITIVE = "fpr95_id_positive", "fpr95_ood_positive"


@dataclasses.dataclass(frozen=True)
class Published:
    """The numbers of one method of a paper.

    Attributes:
        method: as the paper calls it. score: ours that computes it, as in Protocol.scores.
        source: paper, and which of its tables.
        values: {OOD set by its bare name, MEAN, NEAR, FAR or ID: {metric: value in 0..1}}.
    """

    method: str
    score: str
    source: str
    values: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What one table of a paper is made of.

    Attributes:
        title: paper and what is judged. id_dataset: the ID set that a run must be of; "": its own.
        near, far: OOD test sets, as data.names has them; without any, the run's own.
        scores: with parameters, as scores.get takes them.
        fpr95: the paper's convention, a name of metrics.METRICS.
        lists: {OOD set: its list of images below --data_root}, read in its place if it is there.
        networks: that the paper uses. published: numbers.
        notes: what is different here.
    """

    title: str
    id_dataset: str
    scores: tuple[str, ...]
    near: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    fpr95: str = _ID_POSITIVE
    lists: Mapping[str, str] = dataclasses.field(default_factory=dict)
    networks: str = ""
    published: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()


def _table(sets, metrics, text):
    """{set: {metric: value}} of a row in per cent, as it is printed: "1.23/99.65 2.93/99.34"."""
    cells = [[float(number) / 100.0 for number in cell.split("/")] for cell in text.split()]
    rows = [dict(zip(metrics, cell, strict=True)) for cell in cells]
    return types.MappingProxyType(dict(zip(sets, rows, strict=True)))


_REN = "Ren et al., NeurIPS 2019, as recalled: a target, no quotation"
_RATIOS = ("likelihood", "likelihood_ratio")
_RATIO_NOTES = (
    "our ratio is that of the background which validation data chose: of the two published ones "
    "the one with its penalty is meant",
)


def _likelihoods(set_name, likelihood, mutated, ratio):
    """Published of AUROCs in per cent."""
    found = (
        ("likelihood", "likelihood", likelihood),
        ("LLR, mutations alone", "likelihood_ratio", mutated),
        ("LLR, mutations and L2", "likelihood_ratio", ratio),
    )
    return tuple(
        Published(method, score, _REN, _table((set_name,), ("auroc",), value))
        for method, score, value in found
    )


# Unleashing Mask: images of folders are squashed to 32x32, LSUN is not scaled.
_UM_SCORES = ("energy", "msp", "odin(temperature=1000.0,epsilon=0.0014)")
_UM_FAR = (
    "inaturalist:squash", "sun:squash", "places:squash", "dtd:squash", "lsun_c:centre_crop",
    "svhn_cropped",
)  # fmt: skip
_UM_NOTES = (
    "of LSUN's 36x36 images the centre is cut out, where the paper's network sees all",
    "the paper's Mahalanobis score is tuned on ID test images, and left out here",
    "the paper's softmax is applied twice, ours once: msp may differ by a hair",
)


def _unleashed(method, auroc, aupr, fpr95, accuracy):
    mean = _table((MEAN,), ("auroc", "aupr_in", _ID_POSITIVE), f"{auroc}/{aupr}/{fpr95}")
    values = {**mean, ID: {"accuracy": accuracy / 100.0}}
    source = "README of ZFancy/Unleashing-Mask, its one table (mean over the OOD sets)"
    return Published(method, "energy", source, types.MappingProxyType(values))


# HIMPLoS: all images are squashed; its ODIN moves normalised pixels, by 0.004 of a deviation of
# about 0.2 (CIFAR) or 0.226 (ImageNet).
_HIMPLOS = ("energy", "himplos(mask_percentile=60,clip=1.6)", "msp",
            "odin(temperature=1000.0,epsilon=0.0008)", "react(threshold=1.6)+energy")  # fmt: skip
_HIMPLOS_FAR = ("svhn_cropped", "lsun_c:squash", "lsun_r:squash", "isun:squash", "dtd:squash",
                "places365:squash")  # fmt: skip
_HIMPLOS_NAMES = {"odin": _HIMPLOS[3]}
_HIMPLOS_NOTES = (
    "ODIN's epsilon of 0.004 after normalisation is 0.0008 of pixels (0.0009 on ImageNet)",
    "the paper's result tables could not be read: no published numbers of HIMPLoS",
)

# Leave-out ensembles. Published: FPR95 / detection error / AUROC / AUPR-In / AUPR-Out.
_LEAVE_OUT = ("leave_out(temperature=1000.0,epsilon=0.002)",
              "leave_out_odin(temperature=1000.0,epsilon=0.002)")  # fmt: skip
_LEAVE_OUT_FAR = (
    "tin_c:centre_crop", "tin_r:exact", "lsun_c:centre_crop", "lsun_r:exact", "uniform", "gaussian",
)  # fmt: skip
_VYAS_SETS = ("tin_c", "tin_r", "lsun_c", "lsun_r", "uniform", "gaussian")
_VYAS_METRICS = (_ID_POSITIVE, "detection_error", "auroc", "aupr_in", "aupr_out")
_LEAVE_OUT_NOTES = (
    "of the cropped archives' 36x36 images the centre is cut out",
    "the paper chooses temperature and epsilon on iSUN, which is no test set therefore",
    "iSUN must not have chosen anything if it is evaluated",
    "the port drops 1,000 test images of CIFAR that chose its checkpoint, ours none",
)


def _left_out(densenet, wrn, port_densenet, port_wrn):
    paper = (
        "Vyas et al., ECCV 2018, results table, from two transcriptions that agree; of noise one"
    )
    port = "README of YU1ut/Ensemble-of-Leave-out-Classifiers"
    of_paper = (("DenseNet-BC", densenet), ("WRN-28-10", wrn))
    of_port = (("DenseNet-BC", port_densenet), ("WRN-28-10", port_wrn))
    return (
        *(
            Published(f"paper, {net}", _LEAVE_OUT[0], paper, _table(_VYAS_SETS, _VYAS_METRICS, row))
            for net, row in of_paper
        ),
        *(
            Published(
                f"port, {net}",
                _LEAVE_OUT[1],
                port,
                _table(_VYAS_SETS[:4], (_ID_POSITIVE, "auroc"), row),
            )  # fmt: skip
            for net, row in of_port
        ),
    )


# OpenOOD 1.5.
# OpenOOD's name, and its AUROC near and far in per cent, of the four ID sets of _LEADERBOARDS; of
# three networks (fDBD and NCI on CIFAR: one; ImageNet-1k: torchvision's ResNet-50).
_OPENOOD = {
    "ash_b+energy": ("ASH", 75.27, 78.49, 78.20, 80.58, 82.38, 93.90, 78.17, 95.74),
    "dice+energy": ("DICE", 78.34, 84.23, 79.38, 80.01, 81.78, 90.80, 73.07, 90.95),
    "energy": ("EBO", 87.58, 91.21, 80.91, 79.77, 82.50, 90.86, 75.89, 89.47),
    "fdbd": ("fDBD", 90.42, 93.16, 81.26, 79.85, 84.27, 93.45, 76.63, 92.77),
    "gen": ("GEN", 88.20, 91.35, 81.31, 79.68, 83.68, 91.36, 76.85, 89.76),
    "gradnorm": ("GradNorm", 54.90, 57.55, 70.13, 69.14, 72.75, 84.26, 72.96, 90.25),
    "kl_matching": ("KLM", 79.19, 82.68, 76.56, 76.24, 80.76, 88.53, 76.64, 87.60),
    "knn(k=50)": ("KNN", 90.64, 92.96, 80.18, 82.40, 81.57, 93.16, 71.10, 90.18),
    "mahalanobis": ("MDS", 84.20, 89.72, 58.69, 69.39, 61.93, 74.72, 55.44, 74.25),
    "max_logit": ("MLS", 87.52, 91.10, 81.05, 79.67, 82.90, 91.11, 76.46, 89.57),
    "msp": ("MSP", 88.03, 90.73, 80.27, 77.76, 83.34, 90.13, 76.02, 85.23),
    "nci": ("NCI", 88.86, 91.27, 81.03, 81.32, 83.50, 93.71, 78.69, 95.53),
    "openmax": ("OpenMax", 87.62, 89.62, 76.41, 79.48, 80.27, 90.20, 74.77, 89.26),
    "react+energy": ("ReAct", 87.11, 90.42, 80.77, 80.39, 81.87, 92.31, 77.38, 93.67),
    "relative_mahalanobis": ("RMDS", 89.80, 92.20, 80.15, 82.92, 82.57, 88.06, 76.99, 86.38),
    "scale+energy": ("SCALE", 82.55, 86.39, 80.99, 81.42, 84.84, 93.98, 81.36, 96.53),
    "she": ("SHE", 81.54, 85.32, 78.95, 76.92, 80.18, 89.81, 73.78, 90.92),
    "temperature_scaling": ("TempScale", 88.09, 90.97, 80.90, 78.74, 83.69, 90.82, 77.14, 87.56),
    "vim": ("VIM", 88.68, 93.48, 74.98, 81.70, 78.68, 91.26, 72.08, 92.68),
}
_LEADERBOARDS = ("cifar10", "cifar100", "imagenet200", "imagenet1k")
_OPENOOD_FAR = ("mnist", "svhn_cropped", "dtd:shorter_side", "places365:shorter_side")
_OPENOOD_LARGE_NEAR = ("ssb_hard:imagenet", "ninco:imagenet")
_OPENOOD_LARGE_FAR = ("inaturalist:imagenet", "dtd:imagenet", "openimage_o:imagenet")
_OPENOOD_NOTES = (
    "parameters are the defaults, where OpenOOD searches some on validation OOD data (--tune)",
    "OpenOOD's lists leave images out: they are read where the root holds benchmark_imglist",
    "its FPR95 is not in the tables; ASH is ASH-B there",
)


def _leaderboard(name):
    """The numbers of one ID set."""
    place = 1 + 2 * _LEADERBOARDS.index(name)
    file = name if name.startswith("cifar") else f"{name}_ood"
    source = f"OpenOOD, results/{file}.csv, commit 03db2d8"

    def values(row):
        means = zip((NEAR, FAR), row[place : place + 2], strict=True)
        return types.MappingProxyType({mean: {"auroc": value / 100} for mean, value in means})

    return tuple(Published(row[0], score, source, values(row)) for score, row in _OPENOOD.items())


def _listed(folder, files):
    """{set: path of its list} below OpenOOD's data folder."""
    paths = {name: f"benchmark_imglist/{folder}/test_{file}.txt" for name, file in files.items()}
    return types.MappingProxyType(paths)


_CLASSIC = {
    "cifar10": "cifar10", "cifar100": "cifar100", "dtd": "texture", "mnist": "mnist",
    "places365": "places365", "svhn_cropped": "svhn", "tiny_imagenet": "tin",
}  # fmt: skip
_LARGE = {
    "dtd": "textures", "inaturalist": "inaturalist", "ninco": "ninco",
    "openimage_o": "openimage_o", "ssb_hard": "ssb_hard",
}  # fmt: skip

# Means over the six sets by the same DenseNet: context for HIMPLoS's protocols.
_DICE = "Sun and Li (DICE), ECCV 2022, mean over the six sets, as recalled: a target, no quotation"


def _recalled(**of_score):
    return tuple(
        Published(score, _HIMPLOS_NAMES.get(score, score), _DICE,
                  {MEAN: {_ID_POSITIVE: fpr95 / 100.0, "auroc": auroc / 100.0}})
        for score, (fpr95, auroc) in of_score.items()
    )  # fmt: skip


PROTOCOLS = {
    "himplos_cifar10": Protocol(
        "HIMPLoS, CIFAR-10", "cifar10", _HIMPLOS, far=_HIMPLOS_FAR,
        networks="DenseNet-BC-100-12", notes=_HIMPLOS_NOTES,
        published=_recalled(msp=(48.7, 92.5), odin=(24.6, 93.7), energy=(26.6, 94.6)),
    ),
    "himplos_cifar100": Protocol(
        "HIMPLoS, CIFAR-100", "cifar100", _HIMPLOS, far=_HIMPLOS_FAR,
        networks="DenseNet-BC-100-12", notes=_HIMPLOS_NOTES,
        published=_recalled(msp=(80.1, 74.4), odin=(58.1, 84.5), energy=(68.5, 81.2)),
    ),
    "himplos_imagenet": Protocol(
        "HIMPLoS, ImageNet-1k", "imagenet",
        ("energy", "himplos(mask_percentile=30,clip=0.8)", "msp",
         "odin(temperature=1000.0,epsilon=0.0009)", "react(threshold=0.8)+energy"),
        far=("inaturalist:imagenet", "sun:imagenet", "places:imagenet", "dtd:imagenet"),
        networks="ResNet-50; MobileNetV2, of which no parameters are stated",
        notes=_HIMPLOS_NOTES,
    ),
    "leave_out_cifar10": Protocol(
        "Ensemble of leave-out classifiers, CIFAR-10", "cifar10", _LEAVE_OUT, far=_LEAVE_OUT_FAR,
        networks="5 DenseNet-BC-100-12, or 5 WRN-28-10", notes=_LEAVE_OUT_NOTES,
        published=_left_out(
            "1.23/2.63/99.65/99.68/99.64 2.93/3.84/99.34/99.37/99.32 3.42/4.12/99.25/99.29/99.24 "
            "0.77/2.1/99.75/99.77/99.73 2.61/3.6/98.55/98.94/97.52 0.00/0.2/99.84/99.86/99.6",
            "0.82/2.24/99.75/99.77/99.75 2.94/3.83/99.36/99.4/99.36 1.93/3.24/99.55/99.57/99.55 "
            "0.88/2.52/99.7/99.72/99.68 16.39/5.39/96.77/97.78/94.18 0.0/1.03/99.58/99.71/99.2",
            "1.48/99.66 2.58/99.45 3.70/99.27 1.58/99.67",
            "2.08/99.55 4.29/99.15 4.65/99.07 3.25/99.39",
        ),
    ),
    "leave_out_cifar100": Protocol(
        "Ensemble of leave-out classifiers, CIFAR-100", "cifar100", _LEAVE_OUT, far=_LEAVE_OUT_FAR,
        networks="5 DenseNet-BC-100-12, or 5 WRN-28-10", notes=_LEAVE_OUT_NOTES,
        published=_left_out(
            "8.29/6.27/98.43/98.58/98.3 20.52/9.98/96.27/96.66/95.82 14.69/8.46/97.37/97.62/97.18 "
            "16.23/8.77/97.03/97.37/96.6 79.73/9.46/92.0/94.77/83.81 38.52/8.21/94.89/96.36/90.01",
            "9.17/6.67/98.22/98.39/98.07 24.53/11.64/95.18/95.5/94.78 14.22/8.2/97.38/97.62/97.16 "
            "16.53/9.14/96.77/97.03/96.41 99.9/14.86/83.44/89.43/71.2 "
            "98.26/16.88/93.04/88.64/71.62",
            "4.78/99.00 12.09/97.80 11.67/97.87 9.30/98.21",
            "8.75/98.30 21.09/96.13 15.55/97.25 15.16/97.19",
        ),
    ),
    "lr_cifar": Protocol(
        "Likelihood ratios, CIFAR-10 against SVHN", "cifar10", _RATIOS, far=("svhn_cropped",),
        networks="PixelCNN++", published=_likelihoods("svhn_cropped", "9.5", "93.1", "93.0"),
        notes=_RATIO_NOTES,
    ),
    "lr_fashion": Protocol(
        "Likelihood ratios, Fashion-MNIST against MNIST", "fashion_mnist", _RATIOS,
        far=("mnist",), networks="PixelCNN++",
        published=_likelihoods("mnist", "8.9", "97.3", "99.4"),
        notes=_RATIO_NOTES,
    ),
    "lr_genomics": Protocol(
        "Likelihood ratios, bacteria before 2011 against those after 2016", "", _RATIOS,
        networks="LSTM of 2000 units", published=_likelihoods(MEAN, "62.6", "73.2", "75.5"),
        notes=("the OOD test sets are the run's own", *_RATIO_NOTES),
    ),
    "openood_cifar10": Protocol(
        "OpenOOD 1.5, CIFAR-10", "cifar10", tuple(_OPENOOD),
        ("cifar100", "tiny_imagenet:shorter_side"), _OPENOOD_FAR, _OOD_POSITIVE,
        networks="ResNet-18", lists=_listed("cifar10", _CLASSIC), notes=_OPENOOD_NOTES,
        published=_leaderboard("cifar10"),
    ),
    "openood_cifar100": Protocol(
        "OpenOOD 1.5, CIFAR-100", "cifar100", tuple(_OPENOOD),
        ("cifar10", "tiny_imagenet:shorter_side"), _OPENOOD_FAR, _OOD_POSITIVE,
        networks="ResNet-18", lists=_listed("cifar100", _CLASSIC), notes=_OPENOOD_NOTES,
        published=_leaderboard("cifar100"),
    ),
    "openood_imagenet": Protocol(
        "OpenOOD 1.5, ImageNet-1k", "imagenet", tuple(_OPENOOD), _OPENOOD_LARGE_NEAR,
        _OPENOOD_LARGE_FAR, _OOD_POSITIVE, networks="ResNet-50", lists=_listed("imagenet", _LARGE),
        notes=_OPENOOD_NOTES,
        published=_leaderboard("imagenet1k"),
    ),
    "openood_imagenet200": Protocol(
        "OpenOOD 1.5, ImageNet-200", "imagenet200", tuple(_OPENOOD), _OPENOOD_LARGE_NEAR,
        _OPENOOD_LARGE_FAR, _OOD_POSITIVE, networks="ResNet-18",
        lists=_listed("imagenet200", _LARGE), notes=_OPENOOD_NOTES,
        published=_leaderboard("imagenet200"),
    ),
    "um_cifar10": Protocol(
        "Unleashing Mask, CIFAR-10", "cifar10", _UM_SCORES, far=("cifar100", *_UM_FAR),
        networks="DenseNet-BC-100-12 without affine batch normalisation", notes=_UM_NOTES,
        published=(
            _unleashed("Energy", 92.07, 92.72, 42.69, 94.01),
            _unleashed("Energy+UM", 93.73, 94.27, 33.29, 92.80),
            _unleashed("OE", 97.07, 97.31, 13.80, 92.59),
            _unleashed("OE+UM", 97.60, 97.87, 11.22, 93.66),
        ),
    ),
    "um_cifar100": Protocol(
        "Unleashing Mask, CIFAR-100", "cifar100", _UM_SCORES, far=("cifar10", *_UM_FAR),
        networks="DenseNet-BC-100-12 without affine batch normalisation",
        notes=(*_UM_NOTES, "its CIFAR-100 table could not be read: no published numbers"),
    ),
}  # fmt: skip
