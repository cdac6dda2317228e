"""Which overlaps of data sets are refused, and which are noted."""

import types

import numpy as np
import pytest

from ood_suite import data
from ood_suite.data.likeness import perceptual_hashes
from ood_suite.evaluation.overlap import refuse_early, refuse_overlap
from ood_suite.files import example_hashes
from ood_suite.outputs import Outputs
from ood_suite.runs.run import Role


def outputs(name, numbers):
    hashes = np.array(numbers, np.uint64)
    meta = {"dataset": name, "fingerprint": name}
    return Outputs(labels=np.zeros(len(hashes), int), example_hashes=hashes, meta=meta)


def material(selection, held_out=range(100, 200)):
    return types.SimpleNamespace(
        training=outputs("train", range(100)), held_out=outputs("val", held_out),
        selection=outputs("grey", selection), fingerprints={},
    )  # fmt: skip


def check(selection, ood, allowed=False, **parts):
    found = material(selection, **parts)
    return refuse_overlap(found, outputs("id", range(200, 300)), {"o": outputs("o", ood)}, allowed)


def test_nothing_in_common_is_nothing_to_say():
    assert check(range(300, 400), range(400, 500)) == []


def test_the_validation_ood_set_may_share_a_few_examples_with_id_data():
    [note] = check([150, 151, *range(300, 398)], range(400, 500))
    assert note == "2 examples of the validation OOD set are in the held-out ID set too"
    with pytest.raises(ValueError, match="3 of the 100 examples of the validation OOD set are in"):
        check([150, 151, 152, *range(300, 397)], range(400, 500))


@pytest.mark.parametrize(
    "shared, other",
    [(5, "training set"), (150, "held-out ID set"), (250, "ID test set"), (350, "validation OOD")],
)
def test_a_test_set_may_share_none(shared, other):
    ood = [shared, *range(400, 499)]
    with pytest.raises(
        ValueError, match=f"1 of the 100 examples of the OOD set o are in the {other}"
    ):
        check(range(300, 400), ood)
    [note] = check(range(300, 400), ood, allowed=True)
    assert note.startswith(f"1 examples of the OOD set o are in the {other}")


def test_parts_of_the_id_data_that_are_the_same():
    with pytest.raises(ValueError, match="2 of the 100 examples of the held-out ID set are in the"):
        check(range(300, 400), range(400, 500), held_out=[0, 1, *range(100, 198)])
    [note] = check(range(300, 400), range(400, 500), held_out=[0, *range(100, 199)])
    assert note == "1 examples of the held-out ID set are in the training set too"


def of_images(name, images):
    return Outputs(
        example_hashes=example_hashes(images),
        perceptual_hashes=perceptual_hashes(images),
        meta={"dataset": name, "fingerprint": name},
    )


def test_near_duplicates_are_noted_and_not_refused():
    clothes, digits = (data.load(name, "test").images for name in ("fashion_mnist", "mnist"))
    found = types.SimpleNamespace(
        training=of_images("train", clothes[:40]), held_out=of_images("val", clothes[40:80]),
        selection=of_images("grey", np.roll(clothes[:20], 1, axis=2)), fingerprints={},
    )  # fmt: skip
    id_test = of_images("id", clothes[80:120])
    mixed = np.concatenate([digits[:50], np.roll(clothes[44:51], 1, axis=1)])
    ood_tests = {"o": of_images("o", mixed)}
    [note] = refuse_overlap(found, id_test, ood_tests, False)
    assert note == (
        "7 of the 57 images of the OOD set o look like images of the held-out ID set (scaled, "
        "encoded again or shifted by a pixel?), by rows from 0: 50 like 4, 51 like 5, 52 like 6, "
        "53 like 7, 54 like 8, ..."
    )
    # Those that are the same are counted as such alone.
    ood_tests = {"o": of_images("o", np.concatenate([mixed[:51], clothes[30:31]]))}
    notes = refuse_overlap(found, id_test, ood_tests, True)
    assert [note.split("(")[0] for note in notes] == [
        "1 examples of the OOD set o are in the training set too",
        "1 of the 52 images of the OOD set o look like images of the held-out ID set ",
    ]
    # Outputs of before know no such hashes.
    found.held_out.perceptual_hashes = None
    assert len(refuse_overlap(found, id_test, ood_tests, True)) == 1


class Extractor:
    """Hashes of data sets by their names; whatever else is asked for is an error."""

    SETS = {"train": range(100), "val": range(100, 200), "id": range(200, 300)}

    def hashes(self, run, names, split, *, data_dir=None):
        if names[0] not in self.SETS:
            raise FileNotFoundError(names[0])
        return outputs(names[0], self.SETS[names[0]])


def test_overlaps_are_refused_before_anything_is_extracted():
    run = types.SimpleNamespace(config={"fingerprints": {"other_train": "seen"}})
    roles = {
        "training": Role(("train",), "train"), "held_out": Role(("val",), "val"),
        "id_test": Role(("id",), "test"), "validation_ood": Role(("grey",), "val"),
        "ood:o": Role(("o",), "test"), "ood:absent": Role(("absent",), "test"),
    }  # fmt: skip
    extractor = Extractor()
    for shared, message in ((5, "training set"), (150, "held-out ID set"), (250, "ID test set")):
        extractor.SETS = Extractor.SETS | {"o": [shared, *range(400, 499)]}
        with pytest.raises(ValueError, match=f"of the OOD set o are in the {message}"):
            refuse_early(run, extractor, roles)
        refuse_early(run, extractor, roles, allowed=True)
    extractor.SETS = Extractor.SETS | {"seen": range(400, 500)}
    with pytest.raises(ValueError, match="The OOD set seen was used in training"):
        refuse_early(run, extractor, roles | {"ood:o": Role(("seen",), "test")})
