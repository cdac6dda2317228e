"""From a Keras model to a detector with a guarantee, in use and watched, in a minute.

python examples/production.py
"""

import keras
import numpy as np
from keras import layers

from classifier_ood.keras_classifier import KerasClassifier
from ood_suite import Detector, data
from ood_suite.serving.monitoring import Monitor, figure
from ood_suite.serving.pixel_detector import PixelDetector
from ood_suite.serving.screening import screen

# A classifier that knows nothing of this package, trained on pixels 0..1.
training, held_out, test = (data.load("fashion_mnist", split) for split in ("train", "val", "test"))
model = keras.Sequential([
    keras.Input((28, 28, 1)), layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D(),
    layers.Conv2D(32, 3, activation="relu"), layers.GlobalAveragePooling2D(),
    layers.Dense(10, activation="softmax"),
])  # fmt: skip
model.compile(keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
model.fit(training.images / 255.0, training.labels, batch_size=100, epochs=2, verbose=2)

# Calibration: at most 5% false alarms on average over held-out sets; the card says what was done.
classifier = KerasClassifier(model, input_range="0..1")
known = classifier.outputs(training.images[:5000], training.labels[:5000])
calibration = classifier.outputs(held_out.images, held_out.labels)
made = PixelDetector(
    classifier.network, classifier.head,
    Detector("mahalanobis", acceptance=0.95).fit(calibration, known),
    classes=["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker",
             "bag", "boot"],
    held_out_classes=calibration.logits.argmax(axis=1),
    card="# Clothes, or not\n",
)  # fmt: skip
made.save("detector", overwrite=True)
print(f"Promised: {made.promise}.")

# In use, in another process: the folder is all it takes.
detector = Detector.load("detector")
one = detector(test.images[0])
print(f"{detector.classes[one.label]}, p = {one.p_value:.3f}, OOD: {bool(one.is_ood)}")
digits = data.load("mnist", "test").images
np.savez("digits.npz", images=digits)
print(*screen(detector, ["digits.npz"], "digits.tsv").lines(), sep="\n")

# Watched: a thousand clothes as before, then one image in five is a digit.
monitor = Monitor.of(detector, window=250)
stream = np.concatenate([test.images[:1000], test.images[:1000]])
stream[1000::5] = digits[:200]
decided = detector(stream)
for window in monitor.add(decided.score, decided.is_ood, decided.label):
    print(window.stop, f"{window.alarms:.1%} alarms", *window.warnings())
figure(monitor).savefig("monitor.png")
