"""A Keras classifier that knows nothing of this package becomes a detector.

python examples/own_keras_model.py
"""

import keras
from keras import layers

from classifier_ood.keras_classifier import KerasClassifier
from ood_suite import Detector, data, metrics

# Any functional or sequential classifier that ends in a Dense layer will do. Here: a small one.
training, held_out, test = (data.load("fashion_mnist", split) for split in ("train", "val", "test"))
model = keras.Sequential([
    keras.Input((28, 28, 1)), layers.Rescaling(1 / 255),
    layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D(),
    layers.Conv2D(32, 3, activation="relu"), layers.GlobalAveragePooling2D(),
    layers.Dense(10, activation="softmax"),
])  # fmt: skip
model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(training.images, training.labels, batch_size=100, epochs=3, verbose=2)

# It is looked into, not changed: logits before the softmax, features before the last layer.
view = KerasClassifier(model)
known = view.outputs(training.images[:5000], training.labels[:5000])
calibration, normal = view.outputs(held_out.images), view.outputs(test.images, test.labels)
digits = view.outputs(data.load("mnist", "test").images)

for name in ("msp", "energy", "mahalanobis", "vim"):
    detector = Detector(name).fit(calibration, known)
    found = metrics.evaluate(detector.score(normal), detector.score(digits))
    print(
        f"{name:<12} AUROC {found['auroc']:.3f}, catches {detector.is_ood(digits).mean():.1%} of "
        f"the digits, flags {detector.is_ood(normal).mean():.1%} of the clothes"
    )
print(f"accuracy on clothes: {metrics.accuracy(normal.logits, normal.labels):.3f}")
