"""A published sum at the aggregator: on the disk before anybody is told, applied beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_federation import LENGTH, SmallFederation, found

from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.sums import Sums
from fedit_secure.errors import FaultyAggregator, ProtocolError
from fedit_secure.federation.update import GridState, apply_update
from fedit_secure.secagg import messages as m


@pytest.fixture
def federation(tmp_path: Path) -> SmallFederation:
    return found(tmp_path, 3)


def the_sum(value: int = 100) -> m.PublishedSum:
    total = np.full(LENGTH, value, np.int32)
    return m.PublishedSum(
        b"c" * 32, b"K" * 32, (0, 1, 2), total, 7, (), signature=b"s" * 64
    )


def proof(out: m.PublishedSum, after: GridState) -> m.RoundCertificate:
    digests = (after.digest(), out.release_digest)
    words = tuple(m.Confirmation(i, b"R" * 32, 1, *digests) for i in range(3))
    return m.RoundCertificate(1, words)


def after(federation: SmallFederation, out: m.PublishedSum) -> GridState:
    params = federation.charter.secagg_params()
    return apply_update(federation.initial, out.total, params, out.contributors)


def sums(federation: SmallFederation) -> tuple[Sums, RunFolder]:
    folder = RunFolder(federation.root / "run", federation.charter, federation.initial)
    return Sums(folder, federation.charter, None), folder


async def test_a_sum_is_on_the_disk_once_it_is_published(
    federation: SmallFederation,
) -> None:
    made, folder = sums(federation)
    out = the_sum()
    await made.publish(1, out, federation.initial)
    kept = folder.published(1)
    assert kept is not None
    assert kept.release_digest == out.release_digest
    expected = after(federation, out)
    assert (await made.certified(proof(out, expected))).digest() == expected.digest()
    assert folder.states.get(expected.digest()).digest() == expected.digest()


async def test_a_quorum_for_another_sum_or_state_is_a_lie(
    federation: SmallFederation,
) -> None:
    made, _ = sums(federation)
    out, other = the_sum(), the_sum(101)
    right = proof(out, after(federation, out))
    with pytest.raises(FaultyAggregator, match="never published"):
        await made.certified(right)
    await made.publish(1, out, federation.initial)
    with pytest.raises(FaultyAggregator, match="never published"):
        await made.certified(proof(other, after(federation, other)))
    with pytest.raises(FaultyAggregator, match="another state"):
        await made.certified(proof(out, federation.initial))
    made.forget()
    with pytest.raises(FaultyAggregator, match="never published"):
        await made.certified(right)


async def test_a_sum_that_cant_be_applied_is_certified_by_nobody(
    federation: SmallFederation, caplog: pytest.LogCaptureFixture
) -> None:
    made, _ = sums(federation)
    short = m.PublishedSum(
        b"c" * 32,
        b"K" * 32,
        (0, 1, 2),
        np.zeros(3, np.int32),
        7,
        (),
        signature=b"s" * 64,
    )
    await made.publish(1, short, federation.initial)
    with pytest.raises(ProtocolError, match="isn't of this release"):
        await made.certified(proof(short, federation.initial))
    assert "can't be applied" in caplog.text


async def test_adapters_are_written_one_after_the_other(
    federation: SmallFederation,
) -> None:
    made, folder = sums(federation)
    states = [after(federation, the_sum(value)) for value in (1, 2, 3)]
    for round, state in enumerate(states, 1):
        await made.save(round, state)
    await made.saved()
    last = folder.folder / "adapter" / "adapter_model.safetensors"
    third = folder.folder / "rounds" / "003" / "adapter" / "adapter_model.safetensors"
    assert last.read_bytes() == third.read_bytes()
    first = folder.folder / "rounds" / "001" / "adapter" / "adapter_model.safetensors"
    assert first.read_bytes() != last.read_bytes()
    assert (folder.folder / "manifest.json").exists()
