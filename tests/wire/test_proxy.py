"""Silos dial out through the proxy that the environment names, and say what it refuses."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from pathlib import Path

import pytest
from connect_proxy import ConnectProxy, inspecting, listening, saying, silent
from wire_hub import LIMITS, UPLOAD, hub
from wire_samples import HELLO, OFFER, Parties

from fedit_secure.errors import ConfigError, ConnectError
from fedit_secure.secagg import messages as m
from fedit_secure.wire.calls import Unreachable
from fedit_secure.wire.client import connect
from fedit_secure.wire.link import SiloLink
from fedit_secure.wire.proxy import Proxy, proxy_for

FAR = "hub.north.example:7443"  # a name that only the proxy can make anything of
PASSWORD = "pa:ss/wörd"
QUOTED = "pa%3Ass%2Fw%C3%B6rd"


async def dial(parties: Parties, proxy: Proxy | None, address: str = FAR) -> SiloLink:
    return await connect(
        address,
        parties.silo_tls(0),
        LIMITS,
        proxy=proxy,
        patience_seconds=0,
        call_seconds=60,
    )


# ------------------------------------------------------------------------- which proxy


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"https_proxy": "http://proxy:3128"}, "proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128/"}, "proxy:3128"),
        ({"http_proxy": "proxy:8080"}, "proxy:8080"),
        ({"https_proxy": "http://proxy"}, "proxy:80"),
        ({"https_proxy": "http://[2001:db8::1]:3128"}, "[2001:db8::1]:3128"),
        ({"https_proxy": "http://b:1", "http_proxy": "http://c:1"}, "b:1"),
        ({"grpc_proxy": "http://a:1", "https_proxy": "http://b:1"}, "a:1"),
        ({"https_proxy": "", "http_proxy": "http://c:1"}, None),
        # A web server's client can set this one.
        ({"HTTP_PROXY": "http://evil:1"}, None),
    ],
)
def test_the_variable_that_counts(
    environment: dict[str, str], expected: str | None
) -> None:
    proxy = proxy_for(FAR, environment)
    assert (proxy.address if proxy else None) == expected


@pytest.mark.parametrize(
    ("exceptions", "address", "excluded"),
    [
        ("north.example", FAR, True),
        (".north.example", FAR, True),
        ("*.north.example", FAR, True),
        ("HUB.north.example", FAR, True),
        ("localhost, north.example ", FAR, True),
        ("*", FAR, True),
        ("orth.example", FAR, False),  # the end of a word is no domain
        ("south.example", FAR, False),
        ("localhost, ", FAR, False),  # nothing between two commas is no entry
        ("", FAR, False),
        ("10.0.0.0/8", "10.1.2.3:7443", True),
        ("10.1.2.3", "10.1.2.3:7443", True),
        ("10.0.0.0/8", "192.0.2.1:7443", False),
        ("10.0.0.0/8", FAR, False),
        ("2001:db8::/32", "[2001:db8::7]:7443", True),
    ],
)
@pytest.mark.parametrize("variable", ["no_grpc_proxy", "no_proxy", "NO_PROXY"])
def test_exceptions(
    variable: str, exceptions: str, address: str, excluded: bool
) -> None:
    environment = {"https_proxy": "http://proxy:3128", variable: exceptions}
    assert (proxy_for(address, environment) is None) == excluded


@pytest.mark.parametrize(
    "address", ["127.0.0.1:7443", "localhost:7443", "[::1]:7443", "127.8.9.1:1"]
)
def test_loopback_is_dialled_directly(address: str) -> None:
    """A proxy would reach its own loopback, not ours."""
    assert proxy_for(address, {"https_proxy": "http://proxy:3128"}) is None


@pytest.mark.parametrize(
    "value",
    [
        "https://user:sesame@proxy:3128",
        "socks5://user:sesame@proxy:1080",
        "http://user:sesame@proxy:99999",
        "http://user:sesame@proxy:port",
        "http://user:sesame@",
        "http://user:sesame@[proxy:3128",
        "http://user:sesame@pro xy:3128",
        "http://user:sesame@proxy:3128/path",
        "http://proxy:3128?token=sesame",
    ],
)
def test_a_proxy_that_cant_be_used_is_refused_without_its_password(value: str) -> None:
    with pytest.raises(ConfigError, match="the variable https_proxy") as refused:
        proxy_for(FAR, {"https_proxy": value})
    assert "sesame" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.exit_status == 4


def test_credentials_are_never_printed() -> None:
    proxy = proxy_for(FAR, {"https_proxy": f"http://nurse:{QUOTED}@proxy:3128"})
    assert proxy is not None
    for text in (repr(proxy), str(proxy), proxy.address):
        assert "nurse" not in text
        assert "w" not in text
        assert "Basic" not in text
    pair = base64.b64encode(f"nurse:{PASSWORD}".encode()).decode()
    assert f"Proxy-Authorization: Basic {pair}\r\n".encode() in proxy.request(FAR)


def test_a_password_brings_no_header_of_its_own() -> None:
    proxy = proxy_for(FAR, {"https_proxy": "http://u:%0d%0aHost:x@proxy:1"})
    assert proxy is not None
    assert proxy.request(FAR).count(b"\r\n") == 4
    assert "\n" not in str(proxy.options(FAR))


# --------------------------------------------------------------------- through the proxy


async def test_everything_goes_through_the_proxy(
    parties: Parties, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Frames and an upload of 2 MB, to a name that means nothing here; and no log, down
    to the last detail, has the password."""
    caplog.set_level(logging.DEBUG)
    async with hub(parties, tmp_path) as where:
        through = ConnectProxy(where.address)
        async with listening(through) as address:
            url = f"http://nurse:{QUOTED}@{address}"
            link = await dial(parties, proxy_for(FAR, {"https_proxy": url}))
            await link.send(HELLO)
            peer, _ = await where.peers.get()
            await peer.send(OFFER)
            assert await link.receive() == OFFER
            await link.upload(UPLOAD)
            assert isinstance(await peer.receive(), m.MaskedUpload)
            await link.close()
    assert through.passed > UPLOAD.header.length
    (request,) = through.requests
    assert request.startswith(f"CONNECT {FAR} HTTP/1.".encode())
    pair = base64.b64encode(f"nurse:{PASSWORD}".encode())
    assert b"Proxy-Authorization: Basic " + pair in request
    for secret in (PASSWORD, QUOTED, pair.decode()):
        assert secret not in caplog.text


async def test_what_is_excluded_is_dialled_directly(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where:
        nobody = {"https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.0/8"}
        link = await dial(parties, proxy_for(where.address, nobody), where.address)
        await link.close()


async def test_grpc_reads_no_variables_itself(
    parties: Parties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "north.example")
    async with hub(parties, tmp_path) as where:
        await (await dial(parties, None, where.address)).close()
        through = ConnectProxy(where.address)
        async with listening(through) as address:
            await (await dial(parties, Proxy(address, "https_proxy"))).close()
        assert through.passed


# ------------------------------------------------------------------------ when it refuses


async def refusal(
    parties: Parties, proxy: Proxy | None, address: str = FAR
) -> ConnectError:
    with pytest.raises(ConnectError) as refused:
        await dial(parties, proxy, address)
    assert refused.value.exit_status == 2
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize(
    ("status", "credentials", "match", "again"),
    [
        (403, "", "refuses to connect to hub.north.example:7443", False),
        (405, "", "has to allow CONNECT", False),
        (407, "", "asks for a user and a password in https_proxy", False),
        (407, "nurse:sesame@", "doesn't accept the user and password", False),
        (502, "", "couldn't connect to hub.north.example:7443", True),
        (504, "", "couldn't connect to hub.north.example:7443", True),
    ],
)
async def test_a_proxy_that_refuses(
    parties: Parties, status: int, credentials: str, match: str, again: bool
) -> None:
    async with listening(ConnectProxy(FAR, status)) as address:
        url = f"http://{credentials}{address}"
        error = await refusal(parties, proxy_for(FAR, {"https_proxy": url}))
    assert match in str(error)
    assert f"the proxy {address}" in str(error)
    assert "sesame" not in str(error)
    assert str(status) in str(error)
    assert isinstance(error, Unreachable) == again


async def test_a_proxy_that_isnt_there(parties: Parties) -> None:
    async with listening(silent) as address:
        pass
    url = f"http://nurse:sesame@{address}"
    error = await refusal(parties, proxy_for(FAR, {"https_proxy": url}))
    assert isinstance(error, Unreachable)
    expected = f"the proxy {address}, which https_proxy names, can't be reached"
    assert expected in str(error)
    assert "sesame" not in str(error)


async def test_each_reason_to_dial_again_is_logged_once(
    parties: Parties, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator needn't wait until the silo gives up."""
    through = ConnectProxy(FAR, 502)
    async with listening(through) as address:
        proxy, tls = Proxy(address, "https_proxy"), parties.silo_tls(0)
        dialling = asyncio.create_task(connect(FAR, tls, LIMITS, proxy=proxy))
        async with asyncio.timeout(60):
            # Two dials, each with a look, and a third.
            while len(through.requests) < 5:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        dialling.cancel()
        await asyncio.gather(dialling, return_exceptions=True)
    assert caplog.text.count("couldn't connect to hub.north.example:7443") == 1


async def test_what_is_no_proxy(parties: Parties) -> None:
    async with listening(saying(b"SSH-2.0-OpenSSH_9.6\r\n")) as address:
        error = await refusal(parties, Proxy(address, "https_proxy"))
    assert str(error) == f"what answers at {address} is no HTTP proxy"


async def test_no_aggregator_behind_the_proxy_is_no_fault_of_the_proxy(
    parties: Parties, tmp_path: Path
) -> None:
    """The aggregator itself refuses: its own words are passed on."""
    async with hub(parties, tmp_path) as where:
        posing = parties.silos[1].leaf(name="north")
        async with listening(ConnectProxy(where.address)) as address:
            with pytest.raises(ConnectError, match="issuer that the charter pins"):
                await connect(
                    FAR,
                    parties.silo_tls(0, posing),
                    LIMITS,
                    proxy=Proxy(address, "https_proxy"),
                    patience_seconds=0,
                )


# ------------------------------------------------------------- what else answers on a port


async def test_tls_broken_open_on_the_way(parties: Parties, tmp_path: Path) -> None:
    """Directly, or behind a proxy: the sentence names whose certificate it is."""
    context = inspecting(tmp_path, "hub.north.example")
    async with listening(silent, context) as gateway:
        direct = await refusal(parties, None, gateway)
        async with listening(ConnectProxy(gateway)) as address:
            behind = await refusal(parties, Proxy(address, "https_proxy"))
    for error, where in ((direct, gateway), (behind, FAR)):
        assert not isinstance(error, Unreachable)
        assert "isn't the aggregator that the charter pins" in str(error)
        assert "issued by 'CN=Clinic Web Gateway CA'" in str(error)
        assert f"has to exempt {where} from inspection" in str(error)


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is a web page without TLS"),
        (b"<html><body>Please log in", "is a web page without TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "doesn't speak TLS"),
        (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00", "doesn't speak TLS"),
        (b"\x15\x03\x03\x00\x02\x02\x28", "refuses to speak TLS"),
    ],
)
async def test_something_else_on_the_port(
    parties: Parties, answer: bytes, match: str
) -> None:
    async with listening(saying(answer)) as address:
        error = await refusal(parties, None, address)
    assert f"what answers at {address} {match}" in str(error)
    assert not isinstance(error, Unreachable)


async def test_who_hangs_up_may_be_tried_again(parties: Parties) -> None:
    async with listening(saying(b"")) as address:
        error = await refusal(parties, None, address)
    assert isinstance(error, Unreachable)
    assert "hangs up before TLS begins" in str(error)


async def test_the_look_sends_nothing_of_ours(parties: Parties, tmp_path: Path) -> None:
    """Neither certificate nor message: only how a handshake begins."""
    context = inspecting(tmp_path, "hub.north.example")
    context.verify_mode = ssl.CERT_OPTIONAL
    seen: list[object] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert"))
        seen.append(await reader.read(99))

    async with listening(note, context) as address:
        await refusal(parties, None, address)
    assert not seen  # no handshake was ever finished
