"""Small federations that went through something, and what lies on their disks after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from faults.crashing import CountingLink, Dies, Door, Point, play
from small_federation import SmallFederation, found

from fedit_secure.federation.server_rules import Adaptive
from fedit_secure.secagg import messages as m
from fedit_secure.wire import frames as f

PATIENT = {"phase_deadline_seconds": 3.0, "silo_deadline_seconds": 6.0}
LINK = CountingLink  # what `small_federation.FaultyLink` has to be for a `Point`


async def plain(root: Path) -> SmallFederation:
    """Two rounds of four silos in which nothing happens."""
    door = Door(found(root, 4, rounds=2))
    await play(door)
    return door.federation


async def adaptive(root: Path) -> SmallFederation:
    """Three rounds under FedYogi: what the rule remembers is in the state."""
    rule = Adaptive(name="fedyogi", learning_rate=0.01)
    door = Door(found(root, 4, rounds=3, rule=rule))
    await play(door)
    return door.federation


async def voided(root: Path) -> SmallFederation:
    """Two of five die once they have masked: the attempt is void, and renewed."""
    door = Door(found(root, 5))
    await play(door, [Dies(name, Point(m.MaskedUpload)) for name in ("s1", "s3")])
    assert "void" in door.phases()
    return door.federation


async def dropped(root: Path) -> SmallFederation:
    """One of five is gone for good at its upload, and another has never come."""
    federation = found(root, 6, tune_deadline_seconds=6.0)
    door = Door(federation)

    async def gone() -> None:
        with suppress(Exception):
            await federation.run_silo(
                federation.silos[2], door.dial, at_send=Point(m.MaskedUpload)
            )

    task = asyncio.create_task(gone())
    await play(door, absent=("s2", "s5"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return federation


async def skipped(root: Path) -> SmallFederation:
    """Two of four hold their shares back in the first round, which ends without a sum."""
    door = Door(found(root, 4, rounds=2, phase_deadline_seconds=1.0))
    dying = [Dies(name, Point(m.Reveal), back="skipped") for name in ("s1", "s3")]
    await play(door, dying)
    assert "skipped" in door.phases()
    return door.federation


async def restarted(root: Path) -> SmallFederation:
    """The aggregator dies when its sum is on the disk, and a silo at the next agreement."""
    door = Door(found(root, 5, rounds=2, **PATIENT), at_send=Point(m.PublishedSum))
    await play(door, [Dies("s4", Point(m.Agreement, 2))])
    assert door.life == 1
    return door.federation


async def cut_off(root: Path) -> SmallFederation:
    """The aggregator dies before its sum is on the disk, where the shares are given: no
    sum comes out of that round. A silo died on its charge, and has lost two by then."""
    door = Door(found(root, 5, rounds=2, **PATIENT), at_event=Point("confirm"))
    await play(door, [Dies("s2", at_receive=Point(f.HeadReceipt, 2))])
    assert door.life == 1
    assert "skipped" in door.phases()
    return door.federation


STORIES: dict[str, Callable[[Path], Awaitable[SmallFederation]]] = {
    story.__name__: story
    for story in (plain, adaptive, voided, dropped, skipped, restarted, cut_off)
}
