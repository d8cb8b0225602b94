"""What single uploads show: nothing. And what secrets do for it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from playbook import Cast, Play, cast
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from streams import forget_masks, ring_of

from fedit_secure.secagg import checks, keys
from fedit_secure.secagg import messages as m
from fedit_secure.secagg import states as s
from fedit_secure.storage.life import Life

SILOS, LENGTH = 3, 8


def chi_square(ring: np.ndarray, bits: int) -> None:
    """Every byte of the ring: 255 degrees of freedom each, above 370 is p < 1e-5."""
    for shift in range(0, bits, 8):
        counts = np.bincount(ring >> shift & 255, minlength=256)
        expected = ring.size / 256
        assert float(((counts - expected) ** 2 / expected).sum()) < 370


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("value", ["zero", "most"])
def test_masked_uploads_are_uniform(bits, value):
    """Of the updates that are easiest to see: nothing, and the bound everywhere."""
    who = cast(3, length=30_000, ring_bits=bits)
    top = who.params.magnitude if value == "most" else 0
    who.updates = {i: np.full(30_000, top, np.int32) for i in range(3)}
    play = Play(who).run()
    rings = [
        ring_of(upload.payload, 30_000, bits) for upload in play.heard(m.MaskedUpload)
    ]
    for ring in rings:
        chi_square(ring, bits)
    for a, b in ((0, 1), (0, 2), (1, 2)):  # and no two of them share a mask
        chi_square((rings[a] - rings[b]) & np.uint32((1 << bits) - 1), bits)
        chi_square((rings[a] + rings[b]) & np.uint32((1 << bits) - 1), bits)
    assert set(play.released.total.tolist()) == {3 * top}


def test_two_attempts_of_one_update_share_nothing():
    """Voided and masked again: the difference of both uploads is uniform too."""
    first = Play(5, length=30_000)
    first.drop(m.MaskedUpload, sender=3).drop(m.MaskedUpload, sender=4).run()
    again = first.again().run()
    for silo in range(5):
        old, new = (
            ring_of(p.heard(m.MaskedUpload, silo)[0].payload, 30_000, 24)
            for p in (first, again)
        )
        chi_square((new - old) & np.uint32(0xFFFFFF), 24)


def two_worlds() -> tuple[Cast, list[dict[int, np.ndarray]]]:
    """Two sets of inputs that differ in every silo's update, and not in their sum."""
    who = cast(SILOS, length=LENGTH)
    base = np.linspace(-0.5, 0.5, LENGTH) * who.params.magnitude
    one, two = base.astype(np.int32), (-base).astype(np.int32)
    worlds = [{0: one, 1: two, 2: one - two}, {0: two, 1: one - two, 2: one}]
    assert np.array_equal(sum(worlds[0].values()), sum(worlds[1].values()))
    return who, worlds


def payloads(
    patch: pytest.MonkeyPatch, masked: bool, releases: int
) -> tuple[list, np.ndarray]:
    """(the uploads of each silo, which world) over so many whole releases, seeded."""
    # Every party checks each signature: for this test once is enough.
    patch.setattr(checks, "verify", functools.lru_cache(1 << 14)(keys.verify))
    if not masked:
        forget_masks(patch)
    who, worlds = two_worlds()
    uploads: list[list[bytes]] = [[] for _ in range(SILOS)]
    truth = np.arange(releases) % 2
    for i in range(releases):
        who.lives, who.heads = (
            {j: made() for j in range(SILOS)} for made in (Life, dict)
        )
        who.updates = worlds[truth[i]]
        play = Play(who, attempt=i + 1).run()
        assert isinstance(play.aggregator, s.Certified)
        for upload in play.heard(m.MaskedUpload):
            uploads[upload.header.silo].append(bytes(upload.payload))
    return uploads, truth


def auc(uploads: list[bytes], truth: np.ndarray) -> float:
    """How well the bytes of one upload tell the worlds apart, on releases held out."""
    features = np.array([list(upload) for upload in uploads], np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1))
    held_out = cross_val_predict(
        model, features, truth, cv=5, method="decision_function"
    )
    return float(roc_auc_score(truth, held_out))


@pytest.mark.parametrize(
    ("masked", "releases"),
    [(True, 500), (False, 400), pytest.param(True, 2_000, marks=pytest.mark.slow)],
)
def test_classifier_on_a_single_upload(masked, releases):
    """Two worlds with one sum. Where masks are on, the classifier draws lots (its AUC's
    standard deviation is that of a rank sum); where they are off, it sees all."""
    deviation = np.sqrt((releases + 1) / (3 * releases**2))
    with pytest.MonkeyPatch.context() as patch:
        uploads, truth = payloads(patch, masked, releases)
    for silo in range(SILOS):
        found = auc(uploads[silo], truth)
        if masked:
            assert abs(found - 0.5) < 2.5 * deviation, (silo, found)
        else:
            assert found > 0.99, (silo, found)
