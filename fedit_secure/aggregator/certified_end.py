"""Where a run has ended, as its run folder proves it: what the next epoch starts from.

Nothing in the folder is believed: the state is the one that t silos of the charter have
signed, whoever copied the folder here.
"""

from __future__ import annotations

from pathlib import Path

from fedit_secure.errors import ConfigError, MalformedMessage, ProtocolError
from fedit_secure.federation.charter import Charter
from fedit_secure.federation.cohort import Cohorts
from fedit_secure.federation.durable import read_file
from fedit_secure.federation.update import GridState
from fedit_secure.secagg import checks
from fedit_secure.secagg import messages as m
from fedit_secure.storage.progress import Progress
from fedit_secure.wire.codec import decode
from fedit_secure.wire.limits import Limits


def certified_end(folder: Path, charter: Charter) -> tuple[int, GridState]:
    """The last certified round of a charter's run, and the global state after it.

    Before the first certificate it is round 0 and the charter's own initial state. The
    folder is only read, and may be that of a running aggregator. Raises ConfigError if it
    is another charter's, if t silos didn't sign the state, or if a file is missing.
    """
    kept = folder / "charter.json"
    if not kept.is_file():
        raise ConfigError(f"{folder} isn't an aggregator's run folder: no charter.json")
    if read_file(kept, "charter", limit=Charter.most_bytes) != charter.to_bytes():
        raise ConfigError(f"{folder} holds the run of another charter than the given")
    progress = Progress.load(folder)
    round = 0 if progress is None else progress.certified
    digest = bytes.fromhex(charter.adapter.initial_digest)
    if round:
        digest = _certified(folder, charter, round)
    path = folder / "states" / f"{digest.hex()}.state"
    try:
        state = GridState.from_bytes(read_file(path, "state"))
    except MalformedMessage as wrong:
        raise ConfigError(f"state {path}: {wrong}") from wrong
    if state.digest() != digest:
        raise ConfigError(f"{path} isn't the state that it is named after")
    return round, state


def _certified(folder: Path, charter: Charter, round: int) -> bytes:
    path = folder / "rounds" / f"{round:03d}" / "certificate.frame"
    data = read_file(path, "certificate")
    threshold, roster = (
        charter.secagg_params().threshold,
        Cohorts(charter).roster(round),
    )
    try:
        proof = decode(data, Limits.of(charter.secagg_params()))
        if not isinstance(proof, m.RoundCertificate) or proof.round != round:
            raise ConfigError(f"{path} isn't the certificate of round {round}")
        digest, _ = checks.certified(roster, charter.digest(), proof, threshold)
    except ProtocolError as wrong:
        raise ConfigError(f"{path} doesn't prove how round {round} ended") from wrong
    return digest
