"""Motif classifier of DNA reads: the paper's discriminative baseline.

    one-hot bases -> relu(conv, one filter a motif) -> max over positions -> dropout
    -> dense, relu -> dropout -> dense, one logit a class

Reference: Ren et al., "Likelihood Ratios for Out-of-Distribution Detection", NeurIPS 2019, section
5 and appendix. Of its code left out: the binary classifier against mutated reads, and class
weights.
"""

import keras
from keras import layers, ops

from genomics_ood.density import NUM_BASES


def build(length, num_classes, motifs=1000, motif_length=20, hidden=200, dropout_p=0.1):
    """keras.Model: one-hot bases float32 (batch, length, 4) -> {"features" (batch, hidden),
    "logits" (batch, num_classes)}; features are the input of the last layer.

    Raises:
        ValueError: motifs longer than the reads.
    """
    if motif_length > length:
        raise ValueError(f"--motif_length must be at most {length}. Received: {motif_length}.")
    inputs = keras.Input((length, NUM_BASES), name="one_hot")
    x = layers.Conv1D(motifs, motif_length, activation="relu", name="motifs")(inputs)
    x = layers.GlobalMaxPooling1D(name="best_match")(x)
    x = layers.Dropout(dropout_p)(x)
    features = layers.Dense(hidden, activation="relu", name="features")(x)
    features = layers.Dropout(dropout_p)(features)
    logits = layers.Dense(num_classes, name="logits")(features)
    return keras.Model(inputs, {"features": features, "logits": logits}, name="motif_cnn")


class ReadClassifier(keras.Model):
    """A network of one-hot bases in training on bases 0..3: mean cross entropy, in nats."""

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.accuracy = keras.metrics.SparseCategoricalAccuracy("accuracy")

    def build(self, input_shape):
        """The network is built already."""
        self.built = True

    def call(self, bases, training=False):
        return self.network(ops.one_hot(ops.cast(bases, "int32"), NUM_BASES), training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(
            keras.losses.sparse_categorical_crossentropy(y, y_pred["logits"], from_logits=True)
        )

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.accuracy.update_state(y, y_pred["logits"])
        return self.get_metrics_result()
