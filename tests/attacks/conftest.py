"""After every attack, whatever it was: no error text carries a secret."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from attacks.holdings import secrets_of
from playbook import Play

from fedit_secure.secagg import messages as m


@pytest.fixture(autouse=True)
def _error_texts_carry_no_secret(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plays: list[Play] = []
    made = Play.__init__

    def note(play: Play, *args: object, **named: object) -> None:
        made(play, *args, **named)
        plays.append(play)

    monkeypatch.setattr(Play, "__init__", note)
    yield
    for play in plays:
        texts = [str(error) for error in (*play.errors.values(), *play.blame)]
        if not texts:
            continue
        secrets = {
            piece for state in play.states.values() for piece in secrets_of(state)
        }
        secrets |= {piece for own in play.secrets.values() for piece in secrets_of(own)}
        for reveal in play.heard(m.Reveal):
            given = (*reveal.self_shares, *reveal.key_shares)
            secrets |= {piece for _, piece in given}
        for update in play.updates.values():
            secrets |= {str(x).encode() for x in update[:50] if abs(int(x)) > 9999}
        for text in texts:
            for secret in secrets:
                assert secret.hex() not in text
                assert repr(secret)[2:-1] not in text
