"""Masked uploads on disk."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedit_secure.errors import MalformedMessage, StorageError
from fedit_secure.secagg.transcript import digest
from fedit_secure.storage.spool import Spool

CTX = b"c" * 32
PAYLOAD = np.random.default_rng(0).bytes(300_001)
DIGEST = digest("fedit/payload/v1", PAYLOAD)


def test_chunks_become_a_mapped_payload(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1 << 20)
    file = spool.open(CTX, 2, len(PAYLOAD))
    for offset in range(0, len(PAYLOAD), 70_000):
        file.write(offset, PAYLOAD[offset : offset + 70_000])
    payload = file.finish(DIGEST)
    assert bytes(payload) == PAYLOAD
    assert payload.readonly
    assert np.frombuffer(payload, np.uint8).sum() == np.frombuffer(
        PAYLOAD, np.uint8
    ).sum(dtype=np.int64)
    # The file has no name any more; its space lives as long as the payload.
    assert not list((tmp_path / "spool").iterdir())
    assert spool.used == len(PAYLOAD)
    file.discard()
    assert spool.used == len(PAYLOAD)
    view = payload[5:10]
    del payload
    gc.collect()
    assert spool.used == len(PAYLOAD)
    assert bytes(view) == PAYLOAD[5:10]
    del view
    gc.collect()
    assert spool.used == 0


def test_only_the_next_bytes_are_taken(tmp_path: Path) -> None:
    file = Spool(tmp_path, 1 << 20).open(CTX, 2, 10)
    file.write(0, b"01234")
    for offset, data in ((0, b"0"), (4, b"4"), (6, b"6"), (5, b"567890")):
        with pytest.raises(MalformedMessage, match="of which 5 are there"):
            file.write(offset, data)
    file.write(5, memoryview(b"56789"))
    assert (
        bytes(file.finish(digest("fedit/payload/v1", b"0123456789"))) == b"0123456789"
    )


def test_an_upload_is_whole_and_as_signed(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 20)
    file = spool.open(CTX, 2, 10)
    file.write(0, b"01234")
    with pytest.raises(MalformedMessage, match="5 bytes instead of 10"):
        file.finish(digest("fedit/payload/v1", b"01234"))
    file.write(5, b"56789")
    with pytest.raises(MalformedMessage, match="isn't what its header signs"):
        file.finish(digest("fedit/payload/v1", b"0123456780"))
    file.discard()
    gc.collect()
    assert spool.used == 0
    assert not list(tmp_path.iterdir())
    for call in (lambda: file.write(0, b""), lambda: file.finish(DIGEST)):
        with pytest.raises(StorageError, match="was discarded"):
            call()


def test_what_an_earlier_process_left_is_removed(tmp_path: Path) -> None:
    Spool(tmp_path, 100).open(CTX, 2, 10).write(0, b"01234")
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "note.txt").write_text("not an upload")
    assert Spool(tmp_path, 100).used == 0
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_the_spool_has_a_limit(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    first = spool.open(CTX, 0, 60)
    with pytest.raises(StorageError, match="exceeds the spool's 100, of which 60"):
        spool.open(CTX, 1, 41)
    second = spool.open(CTX, 1, 40)
    first.discard()
    second.discard()
    assert spool.used == 0
    spool.open(CTX, 2, 100).discard()


def test_a_full_disk_refuses_before_the_first_byte(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the kernel refuses alike."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from fedit_secure.storage.spool import Spool\n"
        "from fedit_secure.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))\n"
        "spool = Spool(Path(sys.argv[1]), 1 << 30)\n"
        "spool.open(bytes(32), 0, 1 << 16).discard()\n"
        "try:\n"
        "    spool.open(bytes(32), 0, 1 << 20)\n"
        "except StorageError as error:\n"
        "    sys.stdout.write(f'{error}, {spool.used} used')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no room for an upload of 1048576 bytes" in done.stdout
    assert done.stdout.endswith(", 0 used")
    assert not list(tmp_path.iterdir())
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1 << 16


def test_a_folder_that_cant_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="can't be used"):
        Spool(tmp_path / "file", 100)
