"""`fedit silo serve`: one daemon from its configuration to the end of the run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedit_secure import log_fields
from fedit_secure.config import SiloConfig, load_policy, passphrase_of, proxy_variables
from fedit_secure.errors import ConfigError
from fedit_secure.federation.approval import check_approved
from fedit_secure.federation.certificates import leaf_end
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.identity import load_identity
from fedit_secure.federation.rotation import identity_in_use
from fedit_secure.federation.update import GridState
from fedit_secure.silo.account import account_in
from fedit_secure.silo.accountants import Accountants
from fedit_secure.silo.books import Books
from fedit_secure.silo.course import Course
from fedit_secure.silo.daemon import Charge, SiloDaemon
from fedit_secure.silo.dialling import Dialling, Leaf
from fedit_secure.silo.evaluations import Evaluations
from fedit_secure.silo.fingerprints import Prints, commitment
from fedit_secure.silo.jobs import tune_job
from fedit_secure.silo.ledger_opening import open_journal
from fedit_secure.silo.personal import Personal
from fedit_secure.silo.standing import Standing
from fedit_secure.silo.tuner import tune_in_child
from fedit_secure.storage.adapter_store import StateStore
from fedit_secure.storage.daemon_lock import only_daemon
from fedit_secure.tuning.job import DataSource, OwnFigure, Progress
from fedit_secure.tuning.records import load_records
from fedit_secure.tuning.units import require_held_out, require_persons
from fedit_secure.watch.watching import Watching
from fedit_secure.wire.client import connect
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.link import SiloLink
from fedit_secure.wire.proxy import proxy_for
from fedit_secure.wire.tls import Tls
from fedit_secure.wire.traffic import Traffic

_log = logging.getLogger(__name__)
PATIENCE_SECONDS = 600.0  # without an aggregator, before the daemon gives up


async def serve(
    config: SiloConfig,
    on_event: Callable[[int, str], None] = lambda round, phase: None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> GridState:
    """Run the daemon until the run ends. SIGTERM and SIGINT end it cleanly before, SIGUSR1
    once nothing that was paid for would be cut off; all of them by SystemExit(0).

    `on_stage` hears "ready" once all that can be checked here is, as it begins to dial,
    and "stopping" at a signal.

    Raises the refusal of the silo's own policy before it connects to anybody.
    """
    course = Course(on_event)
    serving = asyncio.ensure_future(_serve(config, course, on_stage))

    def stop() -> None:
        on_stage("stopping")
        serving.cancel()

    # Before the daemon can be found by its lock: a signal that comes early counts too.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGUSR1, course.drain)
    draining = asyncio.create_task(course.drained())
    draining.add_done_callback(lambda done: None if done.cancelled() else stop())
    try:
        return await serving
    except asyncio.CancelledError:
        _log.info("stopped; what was reserved stays charged")
        raise SystemExit(0) from None
    finally:
        draining.cancel()


async def _serve(
    config: SiloConfig, course: Course, on_stage: Callable[[str], None]
) -> GridState:
    passphrase = passphrase_of(config)
    identity = load_identity(config.identity, passphrase)
    if identity.name != config.name:
        raise ConfigError(
            f"the identity in {config.identity} is that of {identity.name!r}, and the "
            f"configuration's 'name' is {config.name!r}"
        )
    watching = Watching(config.state, config.page)
    charter = Charter.load(config.charter)
    log_fields.begin(run=charter.run, silo=config.name)
    identity = identity_in_use(charter, config.identity, passphrase)
    charter.check_date(datetime.now(UTC).date())
    check_approved(config.state, charter)
    limits = Limits.of(charter.secagg_params())
    states = StateStore(config.state / "states")
    with (
        only_daemon(config.state),
        open_journal(config.state) as journal,
        contextlib.closing(Accountants()) as ask,
    ):
        policy, key = load_policy(config.policy), identity.signing
        personal = Personal.of(journal, charter, config.name, config.model)
        terms = (journal, states, charter, config.name, key, policy)
        books = Books(*terms, ask=ask, personal=personal)
        source = DataSource.model_validate(config.data.model_dump())
        require_persons(source.columns, charter.dp.unit)
        evaluation = charter.plan_for(config.name).evaluation
        require_held_out(source.held_out is not None, evaluation)
        records = load_records(source)
        books.check(commitment(records, key), Prints.of(records, key))
        del records  # tuning loads its own; the daemon stays small

        evaluations = Evaluations(config.state, charter)
        hub, traffic = charter.aggregator, Traffic()
        address = config.aggregator.address or hub.address
        standing = Standing(
            charter,
            identity.card,
            address,
            traffic,
            lambda: account_in(journal, charter.row(config.name).population, policy),
            lambda: (books.certified, books.sequence),
            ask=ask,
            evaluated=evaluations.of,
            on_phase=watching.on_phase,
        )

        def tell(round: int, phase: str, step: int = 0, steps: int = 0) -> None:
            standing.take(round, phase, step, steps)
            watching.changed()
            course.told(round, f"{phase} {step}/{steps}" if steps else phase)

        async def connected(leaf: Leaf) -> SiloLink:
            standing.dials(leaf_end(leaf[1]))
            watching.changed()
            link = await connect(
                address,
                Tls.of_silo(leaf, hub.name, hub.issuer_certificate),
                limits,
                proxy=proxy_for(address, proxy_variables()),
                patience_seconds=PATIENCE_SECONDS,
                traffic=traffic,
            )
            standing.connected()
            watching.changed()
            return link

        async def tune(
            round: int, state: GridState, charge: Charge
        ) -> NDArray[np.float32]:
            def step(at: Progress) -> None:
                tell(round, at.phase, at.step, at.of)

            async def paid() -> None:
                await course.before_charge()
                await charge()

            def figure(own: OwnFigure) -> None:
                evaluations.own(round, own)

            folder = config.state / "tuning"
            job = tune_job(config, charter, round, state, folder, personal)
            keep = personal and partial(asyncio.to_thread, personal.keep, round)
            return await tune_in_child(
                job, step, before_sampling=paid, on_figure=figure, keep=keep
            )

        daemon = SiloDaemon(
            charter,
            config.name,
            identity.signing,
            books,
            tune,
            hours=policy.hours,
            on_event=tell,
            on_sum=evaluations.published,
        )
        dial = Dialling(identity, connected, lambda: course.between_rounds)
        course.dialling = lambda: dial.under_way
        renewing = asyncio.create_task(dial.keep())
        on_stage("ready")
        try:
            async with watching.show(standing):
                return await daemon.run(dial)
        finally:
            renewing.cancel()
