"""How many bytes of messages passed, for the operator's displays."""

from __future__ import annotations

from collections import Counter

from fedit_secure.wire.stream import Read, Write


class Traffic:
    """Bytes by peer, `sent` and `received`, since the process started: those of gRPC
    messages, without what HTTP/2 and TLS add."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def reading(self, peer: str, read: Read) -> Read:
        """`read`, counted."""

        async def counted() -> bytes | None:
            data = await read()
            self.received[peer] += len(data or b"")
            return data

        return counted

    def writing(self, peer: str, write: Write) -> Write:
        """`write`, counted."""

        async def counted(data: bytes) -> None:
            await write(data)
            self.sent[peer] += len(data)

        return counted
