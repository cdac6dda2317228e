"""ROWS: what every score, shaper and metric was checked against that we did not write.

references/audit.npz holds inputs (420 training, 150 held-out and 54 + 66 test examples of 32
rectified features, a head of seven classes), and what the authors' code gave on them: numbers
alone. Where their code ran in float64, so do the rows; the others say float32. audit_test.py
recomputes ours and compares; docs/make_audit.py shows the table.

A new entry of the catalogue needs a line here. One that has frozen numbers of its own names the
test that compares them:

    Row("name", "owner/repository@commit file.py", test="path/to_test.py::test_name", within=1e-6),
"""

from typing import NamedTuple


class Row(NamedTuple):
    """One comparison.

    Attributes:
        item: a score, "shaper+energy", a fusion, or a metric.
        oracle: "owner/repository@commit file", "PyPI package version: what", or OURS.
        theirs: name in references/audit.npz, under "theirs/"; empty if `test` compares.
        turn: what makes theirs ours, of TURNS.
        factor: ours over the turned theirs, where a constant differs.
        parameters: of ours.
        within: the largest difference allowed: of scores in standard deviations of theirs.
        differs: why ours differs on purpose.
        by: with `differs`, the largest difference, and our AUROC less theirs.
        head: name of the head's kernel in the file.
        draws: names of arrays in the file, their random draws, which ours are replaced by.
        patch: a constant of ours and its value in their code.
        test: "path::function" that compares, in place of `theirs`.
        note: what else a reader should know.
    """

    item: str
    oracle: str
    theirs: str = ""
    turn: str = "minus"
    factor: float = 1.0
    parameters: dict = {}
    within: float = 1e-11
    differs: str = ""
    by: tuple = ()
    head: str = "head_kernel"
    draws: tuple = ()
    patch: tuple = ()
    test: str = ""
    note: str = ""

    @property
    def verdict(self):
        if self.differs:
            return "differs on purpose"
        return "our reading alone" if self.oracle == OURS else "agrees"


OURS = "none: a literal rewrite or hand numbers of ours"
OPENOOD = "Jingkang50/OpenOOD@3c35632ee91b openood/"
POST = OPENOOD + "postprocessors/"
ASH = "andrijazz/ash@0528fd21a32f ash.py"
CADREF = "LingAndZero/CADRef@121f74b47ebd ood_methods/CADRef.py"
CTM = "the authors' CTMDetector of arXiv 2306.14920 (its text; repository and commit unknown)"
DICE = "deeplearning-wisc/dice@8acfb8d52eee models/route.py"
GRAM = "VectorInstitute/gram-ood-detection@e15126c ResNet_Cifar10.ipynb"
HIMPLOS = "sunzh18/HIMPLoS@7a01249d665a utils/cal_score.py, ood_eval.py"
KERNEL = "fanghenshaometeor/ood-kernel-pca@56d348e449bd CoP_CoRP_c10.py"
LEAVE_OUT = "YU1ut/Ensemble-of-Leave-out-Classifiers@d80b29cd3426 calMetric.py"
LEE = "pokaxpoka/deep_Mahalanobis_detector@90c2105e78c6 "
LINE = (
    "YongHyun-Ahn/LINe-Out-of-Distribution-Detection-by-Leveraging-Important-Neurons@465ddf584d62 "
    "models/route.py, models/densenet.py"
)
LLR = "google-research/google-research@066e6a12a381 genomics_ood/images_ood/eval.py"
FD_SHIFTS = "IML-DKFZ/fd-shifts@c4467ae fd_shifts/analysis/rc_stats.py"
LTS = "andrijazz/lts@9509d966c613 lts.py"
MAHA = "mueller-mp/maha-norm@53de550be7f8 NINCO/detection_methods.py"
NAC = "BierOne/ood_coverage@b00278098a8f openood/postprocessors/nac/"
OSDN = POST + "openmax_postprocessor.py, with libMR of abhijitbendale/OSDN@c13b7697c52f"
PNML = "kobybibas/pnml_ood_detection@8fae91b5a791 src/lit_utils/baseline_lit_utils.py"
RAS = "gigug/RAS@313d8e09d4e7 src/ras_postprocessor.py, src/ras_net.py"
RELATION = "snu-mllab/Neural-Relation-Graph@915cc6178301 relation.py"
SCALE = "kai422/SCALE@6a6ab911228f openood/networks/scale_net.py"
SKLEARN = "PyPI scikit-learn 1.9.1: "
STATSMODELS = "PyPI statsmodels 0.15.0: ConditionalLogit, whose coefficient is 1 / T"
VIM = "haoqiwang/vim@dabf9e5b242d benchmark.py"
VRA = "zeroQiaoba/VRA@4dad9317a53f quick_ood.py"
WEIPER = "mgranz/weiper@1c27a4f74585 Weiper/OpenOOD/openood/postprocessors/weiper_kldiv/utils.py"

_DICE = {"dice.percentile": 70.0}
_LINE = {"activation_percentile": 40.0, "weight_percentile": 70.0}
_NECO = {"dimension": 27, "with_logit": False}
_UNIT = {"normalize": True}
_WEIPER = {
    "repeats": 10, "bins": 60, "smoothing": 9, "distance": 1.8, "logits_weight": 2.5,
    "msp_weight": 0.25,
}  # fmt: skip
_ADASCALE = "classifier_ood/keras_classifier_test.py::"
_ADASCALE += "test_the_least_salient_values_move_as_in_openood"
_MAPS = "ood_suite/scores/feature_maps_test.py::"
_POSTHOC = "ood_suite/scores/posthoc_test.py::"
_HAND = "ood_suite/scores/scores_test.py::test_hand_numbers"
_RISK = "ood_suite/selective_test.py::test_equal_to_fd_shifts"
_AUTC = "ood_suite/selective_test.py::"
_AUTC += "test_autc_is_the_mean_of_both_error_rates_over_all_thresholds"
_METRICS = "ood_suite/metrics_test.py::test_equal_to_scikit_learn"

# fmt: off
ROWS = (
    # Scores.
    Row("adascale_a", POST + "adascale_postprocessor.py", test=_ADASCALE, within=1e-5,
        note="the authors' own too, with k1 = k2; network and gradients included, in float32"),
    Row("adascale_l", POST + "adascale_postprocessor.py", test=_ADASCALE, within=1e-5,
        note="as adascale_a"),
    Row("background_mean", OURS, test=_HAND),
    Row("cadref", CADREF, "cadref/energy"),
    Row("cfood", POST + "cfood_postprocessor.py", test=_POSTHOC + "test_cfood_is_openoods",
        note="equal to the bit, its float32 made double"),
    Row("cfood", POST + "cfood_postprocessor.py", test=_POSTHOC + "test_cfood_of_a_draw_is_too",
        note="half of the training data, as it drew them"),
    Row("class_residual", SKLEARN + "PCA of each class", "sklearn/class_residual", "as it is",
        parameters={"dimension": 12}, note="the score itself is ours"),
    Row("cop", KERNEL, "cop", within=1e-8),
    Row("corp", KERNEL, "corp", within=1e-8, parameters={"components": 128},
        draws=("corp/normal", "corp/uniform")),
    Row("ctm", CTM, "ctm/all"),
    Row("ctm", CTM + ", a later version", "ctm/correct",
        differs="it averages only the training examples that are classified correctly, 90% here",
        by=(0.391, 0.0104)),
    Row("energy", POST + "ebo_postprocessor.py", "openood/energy", parameters={"temperature": 2.0}),
    Row("energy", VIM, "vim_repo/energy"),
    Row("entropy", "PyPI scipy 1.17.1: stats.entropy", "scipy/entropy", "as it is"),
    Row("fdbd", POST + "fdbd_postprocessor.py", "openood/fdbd", factor=1 / 6,
        note="theirs is the sum, ours the mean over the six other classes"),
    Row("flow", "PyPI scipy 1.17.1: stats.multivariate_normal", within=0.05,
        test="ood_suite/scores/flows_test.py::test_of_gaussian_data_it_is_their_density",
        note="of Gaussian data, in nats, a mean; and its density integrates to 1"),
    Row("gen", POST + "gen_postprocessor.py", "openood/gen", parameters={"top": 5}),
    Row("gmm", SKLEARN + "GaussianMixture, tied", "sklearn/gmm_unit", "minus, but for a constant"),
    Row("gmm", SKLEARN + "GaussianMixture, tied", "sklearn/gmm_plain", "minus, but for a constant",
        parameters={"normalize": False}),
    Row("gradient_uncertainty", "PyPI pytorch-ood 0.4.0: GradUncertainty of the head alone",
        test=_POSTHOC + "test_gradient_uncertainty_is_pytorch_oods"),
    Row("gradnorm", POST + "gradnorm_postprocessor.py", "openood/gradnorm", factor=1 / 7,
        note="theirs sums over the seven classes, ours takes the mean, as the paper"),
    Row("gram", GRAM, test=_MAPS + "test_gram_is_its_authors", within=2e-5, note="float32"),
    Row("grood", POST + "grood.py", test=_POSTHOC + "test_grood_is_openoods",
        within=1e-10, note="the root of minus theirs; mixed in the last layer, searched exactly"),
    Row("himplos", HIMPLOS, "himplos", parameters={"clip": 1.6},
        note="means of classes by NumPy"),
    Row("input_complexity", OURS, test=_HAND),
    Row("kl_matching", POST + "kl_matching_postprocessor.py", "openood/klm"),
    Row("knn", POST + "knn_postprocessor.py", "openood/knn", "root of minus", within=1e-5,
        note="theirs is squared; float32"),
    Row("leave_out", LEAVE_OUT, "leave_out", within=1e-10,
        note="the sum of theirs; at inputs that the paper's rule moved"),
    Row("leave_out_odin", LEAVE_OUT, "leave_out", within=1e-10),
    Row("likelihood", LLR, "likelihood"),
    Row("likelihood_ratio", LLR, "likelihood_ratio"),
    Row("line", LINE, "line/10_10", note="means over classes of their Taylor terms by NumPy"),
    Row("line", LINE, "line/40_70", parameters=_LINE),
    Row("mahalanobis", MAHA, "maha_norm", parameters=_UNIT),
    Row("mahalanobis", MAHA, "maha"),
    Row("mahalanobis", POST + "mds_postprocessor.py", "openood/mds", within=1e-6,
        note="their precision is of float32"),
    Row("mahalanobis_layers", LEE + "lib_generation.py",
        test="tests/audit_test.py::test_distances_of_layers",
        note="distances; their regression is fitted to test images, ours to validation data"),
    Row("mahalanobis_layers", LEE + "lib_generation.py", within=1e-5,
        test="tests/audit_inputs_test.py::test_mahalanobis_moves_inputs_as_the_authors_code",
        note="distances at perturbed inputs, Keras in float32"),
    Row("max_logit", POST + "maxlogit_postprocessor.py", "openood/max_logit"),
    Row("max_logit", VIM, "vim_repo/max_logit"),
    Row("msp", POST + "base_postprocessor.py", "openood/msp", "1 minus"),
    Row("msp", VIM, "vim_repo/msp", "1 minus"),
    Row("nac", NAC, test=_POSTHOC + "test_nac_is_its_authors", note="two settings"),
    Row("nci", POST + "nci_postprocessor.py", "openood/nci", parameters={"alpha": 0.01}),
    Row("neco", MAHA, "neco/logit", parameters={"dimension": 27},
        note="their copy of the authors' code, which takes 90% of the variance"),
    Row("neco", MAHA, "neco/share", parameters=_NECO),
    Row("nnguide", POST + "nnguide_postprocessor.py", "openood/nnguide", within=1e-5,
        note="float32"),
    Row("odin", POST + "odin_postprocessor.py", "odin/T=1000", "1 minus", within=1e-10),
    Row("odin", POST + "odin_postprocessor.py", "odin/T=1", "1 minus",
        parameters={"temperature": 1.0, "epsilon": 0.02}),
    Row("odin", POST + "odin_postprocessor.py", within=1e-5,
        test="tests/audit_inputs_test.py::test_odin_moves_inputs_as_the_authors_code",
        note="logits at perturbed inputs, Keras in float32"),
    Row("openmax", OSDN, "openood/openmax_osdn", "log odds of minus", within=1e-5,
        note="libMR solves the Weibull fit to 1e-6"),
    Row("openmax", POST + "openmax_postprocessor.py", "openood/openmax", "log odds of minus",
        within=1e-5, patch=("ood_suite.scores.logits.WEIBULL_SHIFT", 1.0),
        note="PyPI's libmr 0.1.9; ours with tails moved to 1, as it does"),
    Row("openmax", POST + "openmax_postprocessor.py", "openood/openmax", "log odds of minus",
        differs="PyPI's libmr 0.1.9 moves tails to 1, the authors' libMR and ours to 10000",
        by=(0.586, 0.0006)),
    Row("pnml", PNML, test=_POSTHOC + "test_pnml_is_theirs", within=1e-10),
    Row("pnml", "PyPI pytorch-ood 0.4.0: PNML", test=_POSTHOC + "test_pnml_is_theirs", within=1e-10,
        note="its float32 made double"),
    Row("rankfeat", POST + "rankfeat_postprocessor.py", test=_MAPS + "test_rankfeat_is_openoods",
        within=1e-6, note="block 4 alone; float32"),
    Row("relation", RELATION, "relation/1", within=1e-6),
    Row("relation", RELATION, "relation/4", within=1e-6, parameters={"power": 4.0}),
    Row("relation", POST + "relation_postprocessor.py", "openood/relation", within=1e-6),
    Row("relative_mahalanobis", MAHA, "rmaha_norm", parameters=_UNIT),
    Row("relative_mahalanobis", MAHA, "rmaha"),
    Row("relative_mahalanobis", POST + "rmds_postprocessor.py", "openood/rmds", within=1e-6,
        note="their precisions are of float32"),
    Row("residual", VIM, "vim_repo/residual"),
    Row("residual", VIM, "vim_repo/residual_centred", head="head_kernel_centred",
        differs="on a head whose classes sum to zero up to float32 they invert the rounding error",
        by=(0.833, -0.0048)),
    Row("she", POST + "she_postprocessor.py", "openood/she"),
    Row("temperature_scaling", STATSMODELS, "statsmodels/temperature_scaling", "1 minus",
        within=1e-6, note="OpenOOD's L-BFGS ends at T = -31 on these logits, so it is no oracle"),
    Row("two_sided_fisher", OURS,
        test="ood_suite/scores/scores_test.py::test_two_sided_fisher_equals_scipy"),
    Row("typicality", OURS, test=_HAND),
    Row("vim", VIM, "vim_repo/vim"),
    Row("vim", POST + "vim_postprocessor.py", "openood/vim"),
    Row("vim", VIM, "vim_repo/vim_centred", head="head_kernel_centred",
        differs="as residual", by=(0.566, -0.0003)),
    Row("weiper", WEIPER, "weiper/default", parameters={"repeats": 10},
        draws=("weiper/noise",),
        note="one set of perturbed heads; their OpenOOD class draws others for every batch"),
    Row("weiper", WEIPER, "weiper/60", parameters=_WEIPER, draws=("weiper/noise",)),
    # Shapers, each before the energy.
    Row("ash_b+energy", ASH, "ash_b", parameters={"ash_b.percentile": 65.0}),
    Row("ash_p+energy", ASH, "ash_p", parameters={"ash_p.percentile": 65.0}),
    Row("ash_s+energy", ASH, "ash_s", parameters={"ash_s.percentile": 65.0}),
    Row("dice+energy", DICE, "dice", parameters=_DICE),
    Row("lts+energy", LTS, "lts"),
    Row("optfs+energy", "Qinyu-Allen-Zhao/OptFSOOD@c09a85e", within=1e-5,
        test="ood_suite/scores/optimal_shaping_test.py::test_equals_the_authors_code",
        note="their float32"),
    Row("ras+energy", RAS, "ras", note="torch.sort(stable=True) in place of torch.sort"),
    Row("ras+energy", RAS, "ras/ties",
        differs="equal features, here zeros, keep their order in ours and have any in torch.sort",
        by=(0.195, 0.0020)),
    Row("react+energy", VIM, "vim_repo/react"),
    Row("react+energy", POST + "react_postprocessor.py", "openood/react"),
    Row("scale+energy", SCALE, "openood/scale"),
    Row("vra+energy", VRA, "vra"),
    Row("vra+energy", POST + "vra_postprocessor.py", "openood/vra",
        parameters={"vra.per_feature": False},
        differs="OpenOOD lifts what is below the low bound to it; the authors and we set it to 0",
        by=(8.85, 0.0070)),
    # Fusion.
    Row("energy&knn&mahalanobis", "PyPI scipy 1.17.1: stats.combine_pvalues", "scipy/fisher",
        "as it is", parameters={"knn.k": 5}),
    # Metrics of the energy: ID 54, OOD 66 examples.
    Row("auroc", SKLEARN + "roc_auc_score", test=_METRICS),
    Row("auroc", OPENOOD + "evaluators/metrics.py", "metric/openood/auroc", "as it is"),
    Row("aupr_in", SKLEARN + "average_precision_score", test=_METRICS),
    Row("aupr_in", "sunzh18/HIMPLoS@7a01249d665a utils/test_utils.py", "metric/himplos/aupr_in",
        "as it is"),
    Row("aupr_in", OPENOOD + "evaluators/metrics.py", "metric/openood/aupr_in", "as it is",
        differs="a trapezoid under the precision-recall curve; ours is the sum of steps",
        by=(0.0044,)),
    Row("aupr_out", SKLEARN + "average_precision_score", test=_METRICS),
    Row("aupr_out", "sunzh18/HIMPLoS@7a01249d665a utils/test_utils.py", "metric/himplos/aupr_out",
        "as it is"),
    Row("aupr_out", OPENOOD + "evaluators/metrics.py", "metric/openood/aupr_out", "as it is",
        differs="as aupr_in", by=(0.0026,)),
    Row("detection_error", SKLEARN + "roc_curve", test=_METRICS),
    Row("detection_error", LEE + "calculate_log.py", "metric/lee/DTACC", "1 minus"),
    Row("detection_error", VRA, "metric/vra/DTERR", "as it is",
        differs="errors of both classes over all examples; ours weighs the classes alike",
        by=(0.0029,)),
    Row("fpr95_id_positive", SKLEARN + "roc_curve", test=_METRICS),
    Row("fpr95_id_positive", LEE + "calculate_log.py", "metric/lee/TNR", "1 minus"),
    Row("fpr95_id_positive", VRA, "metric/vra/FPR", "as it is",
        differs="its threshold accepts 51 of 54 ID examples, under 95%; ours at least 95%",
        by=(0.045,)),
    Row("fpr95_ood_positive", SKLEARN + "roc_curve", test=_METRICS),
    Row("fpr95_ood_positive", OPENOOD + "evaluators/metrics.py",
        "metric/openood/fpr95_ood_positive", "as it is"),
    # Areas of risk and thresholds.
    Row("aurc", FD_SHIFTS, test=_RISK, within=1e-12, note="ties included"),
    Row("augrc", FD_SHIFTS, test=_RISK, within=1e-12, note="ties included"),
    Row("excess_aurc", FD_SHIFTS, test=_RISK, within=1e-12),
    Row("scod_aurc", FD_SHIFTS, test=_RISK, within=1e-12, note="as many ID as OOD examples"),
    Row("scod_augrc", FD_SHIFTS, test=_RISK, within=1e-12, note="as many ID as OOD examples"),
    Row("autc", "glhr/beyond-AUROC@9d78e63 ood_metrics.py", test=_AUTC,
        differs="theirs joins the steps of both rates by straight lines", by=(0.0003,)),
)
# fmt: on
