"""After every attack, whatever it was: nothing leaked, and no error text carries a secret."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from attacks.holdings import secrets_of
from playbook import Play, assert_nothing_leaked

from fedit_secure.secagg import messages as m

if TYPE_CHECKING:
    from attacks.worlds import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Federations to be run as a whole; only who asks for them imports torch."""
    from attacks.worlds import make_world

    return make_world(tmp_path_factory.mktemp("world"))


# These leak on purpose, to show that it would be seen.
CONTROLS = {"test_holdings", "test_leaks", "test_noise"}


@pytest.fixture(autouse=True)
def _nothing_leaks_and_no_text_tells(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    plays: list[Play] = []
    made = Play.__init__

    def note(play: Play, *args: object, **named: object) -> None:
        made(play, *args, **named)
        play.corrupt = set()  # a test adds those whose secrets aren't what they say
        plays.append(play)

    monkeypatch.setattr(Play, "__init__", note)
    yield
    if request.path.stem in CONTROLS:
        return
    for play in plays:
        assert_nothing_leaked(play, play.corrupt, withheld=True)
        assert_texts_tell_nothing(play)


def assert_texts_tell_nothing(play: Play) -> None:
    """Of every secret, share and large coordinate that there was."""
    texts = [str(error) for error in (*play.errors.values(), *play.blame)]
    if not texts:
        return
    secrets = {piece for state in play.states.values() for piece in secrets_of(state)}
    secrets |= {piece for own in play.secrets.values() for piece in secrets_of(own)}
    for reveal in play.heard(m.Reveal):
        secrets |= {piece for _, piece in (*reveal.self_shares, *reveal.key_shares)}
    for update in play.updates.values():
        secrets |= {str(x).encode() for x in update[:50] if abs(int(x)) > 9999}
    for text in texts:
        for secret in secrets:
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
