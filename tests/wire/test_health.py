"""Health checks over grpc.health.v1: on their own address, and about nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from wire_hub import hub
from wire_samples import Parties

from fedit_secure.errors import ConfigError
from fedit_secure.wire import calls
from fedit_secure.wire.ask_health import serving
from fedit_secure.wire.health import answering_health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def check(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return (await HealthStub(channel).Check(request, timeout=30)).status


async def test_it_says_serving_and_then_not() -> None:
    seen: list[int] = []
    async with answering_health("127.0.0.1:0") as address:
        assert address is not None
        assert await check(address) == SERVING
        assert await check(address, calls.SERVICE) == SERVING
        channel = grpc.aio.insecure_channel(address)
        watching = HealthStub(channel).Watch(health_pb2.HealthCheckRequest())

        async def watch() -> None:
            with contextlib.suppress(grpc.aio.AioRpcError):  # the server's end
                while (answer := await watching.read()) is not grpc.aio.EOF:
                    seen.append(answer.status)

        task = asyncio.create_task(watch())
        async with asyncio.timeout(30):
            while not seen:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        await task
    assert seen == [SERVING, NOT_SERVING]
    await channel.close()


async def test_it_answers_nothing_else() -> None:
    async with answering_health("127.0.0.1:0") as address:
        assert address is not None
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(address, "another")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        async with grpc.aio.insecure_channel(address) as channel:
            for method in (calls.CONNECT, calls.UPLOAD, calls.FETCH):
                call = channel.stream_stream(method)(timeout=30)
                with pytest.raises(grpc.aio.AioRpcError):
                    await call.read()
                assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_silos_port_answers_no_health_checks(
    parties: Parties, tmp_path: Path
) -> None:
    async with hub(parties, tmp_path) as where:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(where.address)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_off_by_default_and_a_taken_port_is_refused() -> None:
    async with answering_health(None) as address:
        assert address is None
    async with answering_health("127.0.0.1:0") as address:
        assert address is not None
        with pytest.raises(ConfigError, match="can't answer health checks on 127"):
            async with answering_health(address):
                pass


async def test_a_containers_check_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # it isn't for this
    async with answering_health("127.0.0.1:0") as address:
        assert address is not None
        assert await asyncio.to_thread(serving, address)
    assert not await asyncio.to_thread(serving, address)


def test_a_containers_check_ends_with_a_status() -> None:
    for arguments in (["127.0.0.1:9"], []):
        ask = [sys.executable, "-m", "fedit_secure.wire.ask_health", *arguments]
        assert subprocess.run(ask, check=False).returncode == 1
