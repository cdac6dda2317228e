"""Runs of the motif classifier, whose features and logits feed all scores of classifiers."""

import pathlib

from genomics_ood import density_run, motif_cnn, reads
from ood_suite.runs.run import opened
from ood_suite.runs.settings import check
from ood_suite.training import backend
from ood_suite.training.fit import batches, fit

EXTRACTOR = "genomics_ood.extract_features"


def train_classifier(experiment, exp, out_dir, data_dir=None, repeat_id=0):
    """Trains one classifier, or continues it, or finds it finished; returns its Run."""
    check(experiment)
    training, validation = sets = density_run.load_data(experiment, data_dir)
    classes = reads.check_labels(training, validation)
    own = f"motif_cnn_repeat{repeat_id}" if repeat_id else "motif_cnn"
    folder = pathlib.Path(out_dir) / f"{exp}_classifier" / own
    seed = experiment.random_seed + repeat_id
    backend.set_seed(seed)
    network = motif_cnn.build(
        training.bases.shape[1], classes, experiment.motifs, experiment.motif_length,
        experiment.hidden, experiment.classifier_dropout_p,
    )  # fmt: skip
    model = motif_cnn.ReadClassifier(network)
    density_run.compile_model(
        model, experiment, experiment.classifier_learning_rate, experiment.classifier_steps
    )
    model.build((None, training.bases.shape[1]))
    with opened(
        folder,
        kind="classifier",
        extractor=EXTRACTOR,
        settings=density_run.settings_of(experiment, exp, repeat_id)
        | {"ood_near": (), "ood_far": experiment.ood_test},
        fingerprints=reads.fingerprints(sets),
        notes=[s.note for s in sets],
        data_dir=data_dir,
    ) as run:
        if not run.is_finished:
            fit(
                model,
                lambda step: batches(
                    [training.bases], experiment.batch_size, seed, step, training.labels
                ),
                run,
                total_steps=experiment.classifier_steps,
                eval_every=experiment.eval_every,
                batch_size=experiment.batch_size,
                validation=(validation.bases, validation.labels),
                monitor="accuracy",
                saved=lambda: network,
            )
    return run
