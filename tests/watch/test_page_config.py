"""Where a page may be shown: on this machine, unless the file says that others may look."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedit_secure.config import load_aggregator_config
from fedit_secure.errors import ConfigError

REST = """\
identity: identity
state: state
charter: charter.json
approvals: approvals
initial_state: initial-state.bin
listen: 0.0.0.0:7443
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "aggregator.yaml"


def test_there_is_no_page_unless_asked_for(file: Path) -> None:
    file.write_text(REST)
    assert load_aggregator_config(file).page is None


@pytest.mark.parametrize(
    "listen", ["127.0.0.1:9464", "127.8.8.8:9464", "'[::1]:9464'", "localhost:9464"]
)
def test_loopback_needs_no_further_word(file: Path, listen: str) -> None:
    file.write_text(f"{REST}page:\n  listen: {listen}\n")
    page = load_aggregator_config(file).page
    assert page is not None
    assert not page.public


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:9464", "'[::]:9464'", "10.0.0.5:9464", "hub.example:9464"]
)
def test_any_other_address_has_to_be_meant(file: Path, listen: str) -> None:
    file.write_text(f"{REST}page:\n  listen: {listen}\n")
    with pytest.raises(ConfigError) as refused:
        load_aggregator_config(file)
    text = str(refused.value)
    assert text.startswith(f"{file} line 7: the field 'page' would be seen from other")
    assert text.endswith("no log-in: listen on 127.0.0.1, or say 'public: true'")
    file.write_text(f"{REST}page:\n  listen: {listen}\n  public: true\n")
    page = load_aggregator_config(file).page
    assert page is not None
    assert page.public


def test_the_environment_may_ask_for_it(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(REST)
    monkeypatch.setenv("FEDIT_PAGE__LISTEN", "127.0.0.1:9000")
    page = load_aggregator_config(file).page
    assert page is not None
    assert page.listen == "127.0.0.1:9000"


def test_an_unknown_key_is_refused(file: Path) -> None:
    file.write_text(f"{REST}page: {{listen: '127.0.0.1:1', pubic: true}}\n")
    with pytest.raises(
        ConfigError, match=r"'page\.pubic' is unknown; did you mean 'public'"
    ):
        load_aggregator_config(file)
