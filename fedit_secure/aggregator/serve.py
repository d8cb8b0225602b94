"""`fedit aggregator serve`: the aggregator from its configuration to the end of the run."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fedit_secure import log_fields
from fedit_secure.aggregator.course import Course
from fedit_secure.aggregator.events import Event
from fedit_secure.aggregator.renewing import Renewing
from fedit_secure.aggregator.run_folder import RunFolder
from fedit_secure.aggregator.serials import Serials
from fedit_secure.aggregator.service import Aggregator
from fedit_secure.aggregator.standing import Standing
from fedit_secure.config import AggregatorConfig, passphrase_of
from fedit_secure.errors import ConfigError, PolicyRefusal, StorageError
from fedit_secure.federation.approval import load_approvals
from fedit_secure.federation.certificates import leaf_end
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.durable import read_file
from fedit_secure.federation.rotation import identity_in_use
from fedit_secure.federation.update import GridState
from fedit_secure.storage.daemon_lock import only_daemon
from fedit_secure.storage.spool import Spool
from fedit_secure.storage.stop_order import StopOrder, stop_path
from fedit_secure.watch.watching import Watching
from fedit_secure.wire.arenas import give_back_freed_memory
from fedit_secure.wire.health import answering_health
from fedit_secure.wire.limits import Limits
from fedit_secure.wire.server import AggregatorServer
from fedit_secure.wire.traffic import Traffic
from fedit_secure.wire.uploads import Uploads

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 1.0  # between two looks for an order to stop
GOODBYE_SECONDS = 3.0  # for the silos to read the last frame


async def serve(
    config: AggregatorConfig,
    on_event: Callable[[Event], None] = lambda event: None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> GridState:
    """Serve the charter's silos until its last round. SIGTERM and SIGINT end it before,
    SIGUSR1 once no attempt is open; all of them by SystemExit(0).

    `on_stage` hears "ready" once silos can connect, and "stopping" at a signal.

    Raises QuorumLost, ConfigError for a file or address that doesn't do, and PolicyRefusal
    for a run that its operator has stopped.
    """
    give_back_freed_memory()
    watching = Watching(config.state, config.page)
    charter = Charter.load(config.charter)
    log_fields.begin(run=charter.run)
    identity = identity_in_use(charter, config.identity, passphrase_of(config))
    charter.check_date(datetime.now(UTC).date())
    orders = stop_path(config.state, charter.digest().hex())
    if (order := StopOrder.load(orders)) is not None:
        raise PolicyRefusal(
            f"this run was stopped on {order.day} ({order.reason}); `fedit run stop "
            "--withdraw` lets it go on"
        )
    approvals = load_approvals([config.approvals])
    initial = GridState.from_bytes(read_file(config.initial_state, "initial state"))
    folder = RunFolder(config.state / charter.digest().hex()[:16], charter, initial)
    roster = [(row.name, row.issuer_certificate) for row in charter.roster]
    renewing = Renewing(identity, config.hostnames, roster)
    traffic = Traffic()
    standing = Standing(
        charter,
        folder,
        traffic,
        lambda: leaf_end(renewing.tls.chain),
        on_phase=watching.on_phase,
    )

    def tell(event: Event) -> None:
        standing.take(event)
        watching.changed()
        on_event(event)

    course = Course(tell, lambda: folder.progress.open)
    # Before the daemon can be found by its lock: a signal that comes early counts too.
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, course.drain)
    with only_daemon(config.state):
        limits = Limits.of(charter.secagg_params())
        # Twice: what the last attempt still adds up, and the next one's uploads.
        room = 2 * len(charter.roster) * limits.payload_bytes
        uploads = Uploads(Spool(folder.folder / "spool", room), limits)
        aggregator = Aggregator(
            charter,
            approvals,
            identity.signing,
            folder,
            base_model=config.base_model,
            on_event=course.told,
            uploads=uploads,
            earlier_ledgers=[
                ledgers
                for ledgers in sorted(config.state.glob("*/ledgers"))
                if ledgers.parent != folder.folder
            ],
        )
        host, _, port = config.listen.rpartition(":")
        server = AggregatorServer(
            host,
            _port(config.listen, port),
            renewing.tls,
            roster,
            aggregator.on_connect,
            uploads,
            aggregator,
            limits,
            serials=Serials(folder.folder / "serials.json"),
            traffic=traffic,
        )
        await server.start()
        _log.info("serving %r on %s", charter.federation, config.listen)
        on_stage("ready")
        renewal = asyncio.create_task(renewing.keep(server))
        try:
            async with watching.show(standing), answering_health(config.health):
                given = (aggregator, folder, orders, standing, course, on_stage)
                return await _until_stopped(*given)
        finally:
            renewal.cancel()
            await server.stop()


async def _until_stopped(
    aggregator: Aggregator,
    folder: RunFolder,
    orders: Path,
    standing: Standing,
    course: Course,
    on_stage: Callable[[str], None],
) -> GridState:
    run = asyncio.ensure_future(aggregator.run(lambda: not orders.exists()))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        on_stage("stopping")
        run.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    course.stop = stop
    looking = [
        asyncio.create_task(_stop_at_once(orders, run)),
        asyncio.create_task(course.keep()),
    ]
    try:
        state = await run
    except asyncio.CancelledError:
        if StopOrder.load(orders) is None:
            _log.info("stopped; started again, the run goes on from its last round")
            raise SystemExit(0) from None
        state = folder.state()
    finally:
        for task in looking:
            task.cancel()
    certified = folder.progress.certified
    order = StopOrder.load(orders)
    if order is None or standing.has_ended:
        await asyncio.sleep(GOODBYE_SECONDS)
        return state
    why = order.sentence(certified)
    _log.info("%s", why)
    standing.finish("stopped", why)
    await aggregator.dismiss(why)
    await asyncio.sleep(GOODBYE_SECONDS)
    raise SystemExit(0)


async def _stop_at_once(orders: Path, run: asyncio.Future[GridState]) -> None:
    """Cancel the run when its operator orders that."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            order = StopOrder.load(orders)
        except StorageError as error:
            _log.warning("an order to stop can't be read: %s", error)
            return
        if order is not None and order.at_once:
            run.cancel()
            return


def _port(listen: str, port: str) -> int:
    if not port.isdigit():
        raise ConfigError(f"the address to listen on, {listen!r}, ends in no port")
    return int(port)
