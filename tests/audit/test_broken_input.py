"""Files that aren't what they say: one sentence or a fault, and no more memory than due."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from audit.forge import Evidence
from audit.honest_runs import peers_that_saw_the_heads
from audit.parties import HUB
from audit.sealing import sealed, write_folder, write_zip
from audit.tampered import Files

from fedit_secure.audit.bundle import MANIFEST, SIGNATURE
from fedit_secure.audit.facts import Audit
from fedit_secure.audit.verify import audit_bundle
from fedit_secure.errors import ConfigError

ROOT = Path(__file__).parents[2]
MEMORY = (
    512 << 20
)  # bytes that a verification of a small bundle may take, imports and all


@cache
def evidence() -> Evidence:
    return peers_that_saw_the_heads()


@cache
def whole() -> Files:
    return evidence().sealed()


# One of each kind; those of other silos and rounds are read by the same code.
KINDS = sorted(
    name
    for name in whole()
    if not any(part in name for part in ("s0", "s2", "s3", "rounds/000001"))
)
_RANDOM = random.Random(5)
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "random": lambda data: _RANDOM.randbytes(len(data)),
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "doubled": lambda data: data + data,
    "a bit": lambda data: data[:9] + bytes([data[9] ^ 4]) + data[10:],
    "nested": lambda data: b"[" * 100_000,
    "large": lambda data: data + bytes(70_000),
    "not UTF-8": lambda data: b"\xff\xfe" + data,
}


def told(path: Path) -> Audit | ConfigError:
    """What the verifier makes of it: an audit, or one sentence. Nothing else."""
    try:
        return audit_bundle(path)
    except ConfigError as error:
        refusal = error
    assert refusal.exit_status == 4
    assert "\n" not in str(refusal)
    return refusal


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_told(name: str, damage: str, tmp_path: Path) -> None:
    """By whoever had the bundle; and by its maker, under a signature over the damage."""
    data = DAMAGES[damage](whole()[name])
    listed = name not in (MANIFEST, SIGNATURE)
    if not listed or damage in (
        "random",
        "a bit",
    ):  # the digest tells all of them alike
        files = {**whole(), name: data}
        found = told(write_zip(files, tmp_path / "touched.zip"))
        if isinstance(found, Audit):
            codes = {f.code for verdict in found.verdicts for f in verdict.faults}
            assert ("file-changed" if listed else "manifest-unsigned") in codes
    if not listed:
        return
    inside = {**evidence().files, name: data}
    files = sealed(inside, evidence().world.charter, HUB)
    found = told(write_zip(files, tmp_path / "made.zip"))
    assert isinstance(found, ConfigError) or not found.passed


@pytest.mark.parametrize("name", [MANIFEST, "charter.json"])
def test_what_a_bundle_must_have(name: str, tmp_path: Path) -> None:
    files = {n: data for n, data in whole().items() if n != name}
    with pytest.raises(ConfigError, match=name):
        audit_bundle(write_zip(files, tmp_path / "run.zip"))


# ------------------------------------------------------------------------ the archive


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "run.zip"
    with pytest.raises(ConfigError):
        audit_bundle(path)
    for data in (b"", b"PK", bytes(1000), random.Random(1).randbytes(1000)):
        path.write_bytes(data)
        with pytest.raises(ConfigError, match=r"run\.zip can't be read"):
            audit_bundle(path)


def test_an_archive_cut_anywhere(tmp_path: Path) -> None:
    data = write_zip(whole(), tmp_path / "whole.zip").read_bytes()
    path = tmp_path / "run.zip"
    for at in range(0, len(data) - 1, len(data) // 25):
        path.write_bytes(data[:at])
        assert isinstance(told(path), ConfigError)


def test_an_archive_with_a_byte_changed_anywhere(tmp_path: Path) -> None:
    """In what is compressed, in the headers and in the table of contents."""
    data = write_zip(whole(), tmp_path / "whole.zip").read_bytes()
    path = tmp_path / "run.zip"
    table = data.rindex(b"PK\x01\x02", 0, data.index(b"PK\x01\x02") + 4)
    places = [random.Random(7).randrange(table) for _ in range(25)]
    places += [random.Random(8).randrange(table, len(data)) for _ in range(25)]
    for at in places:
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x21]) + data[at + 1 :])
        told(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression(method: int, tmp_path: Path) -> None:
    path = tmp_path / "run.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in whole().items():
            archive.writestr(name, data)
    with pytest.raises(ConfigError, match="compressed in a way"):
        audit_bundle(path)


def test_an_encrypted_file(tmp_path: Path) -> None:
    path = write_zip(whole(), tmp_path / "run.zip")
    data = bytearray(path.read_bytes())
    table = data.index(b"PK\x01\x02")
    flags = struct.unpack_from("<H", data, table + 8)[0]
    struct.pack_into("<H", data, table + 8, flags | 1)
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="is encrypted"):
        audit_bundle(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice(tmp_path: Path) -> None:
    path = write_zip(whole(), tmp_path / "run.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("ledgers/s1.jsonl", whole()["ledgers/s1.jsonl"])
    with pytest.raises(ConfigError, match="has a file twice"):
        audit_bundle(path)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "ledgers/../../outside",
        "/etc/hostname",
        "C:\\outside",
        "rounds/\N{SUPERSCRIPT TWO}/sum.int32",
        "rounds/" + "9" * 5000 + "/sum.int32",
        "rounds/000009/sum.int32",
        "ledgers/nobody.jsonl",
        "cards/\N{SNOWMAN}.card",
        "seen/s9.json",
        "heads/..json",
        "a" * 60_000,
    ],
)
def test_a_strange_name(name: str, tmp_path: Path) -> None:
    """In the archive alone, and with the maker's signature; never is it a file's path."""
    (tmp_path / "outside").write_text("not to be read")
    extra = {**whole(), name: b'{\n  "heads": []\n}\n'}
    found = told(write_zip(extra, tmp_path / "touched.zip"))
    assert isinstance(found, ConfigError) or not found.passed
    inside = {**evidence().files, name: b'{\n  "heads": []\n}\n'}
    files = sealed(inside, evidence().world.charter, HUB)
    told(write_zip(files, tmp_path / "made.zip"))


def test_a_folder_of_strange_things(tmp_path: Path) -> None:
    folder = write_folder(whole(), tmp_path / "run")
    (folder / "rounds" / "000001" / "sum.int32").unlink()
    (folder / "rounds" / "000001" / "sum.int32").mkdir()
    (folder / "around").symlink_to(folder, target_is_directory=True)
    (folder / "loop").symlink_to("loop")
    found = told(folder)
    assert isinstance(found, ConfigError) or not found.passed


# ----------------------------------------------------------------------------- memory

STATUS = Path("/proc/self/status")


def bomb(path: Path, name: str, byte: bytes, size: int) -> Path:
    """The bundle, in which one file of zeros or the like unpacks to `size` bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for other, data in whole().items():
            if other != name:
                archive.writestr(other, data)
        with archive.open(name, "w", force_zip64=True) as file:
            for _ in range(size >> 20):
                file.write(byte * (1 << 20))
    assert path.stat().st_size < size // 100
    return path


@pytest.mark.parametrize(
    ("name", "byte"),
    [
        ("initial.state", b"\0"),
        ("ledgers/s1.jsonl", b"\n"),
        ("rounds/000002/sum.int32", b"\0"),
        ("rounds/000002/adverts.frame", b"\0"),
        ("manifest.json", b"{"),
    ],
)
def test_a_bomb_takes_no_memory(name: str, byte: bytes, tmp_path: Path) -> None:
    """A file that is small as long as it is packed."""
    if not STATUS.exists():
        pytest.skip("this system doesn't tell a process's largest memory")
    path = bomb(tmp_path / "run.zip", name, byte, 1 << 30)
    probe = (
        "import sys\n"
        "from pathlib import Path\n"
        "from fedit_secure.audit.verify import audit_bundle\n"
        "from fedit_secure.errors import ConfigError\n"
        "try:\n"
        "    audit = audit_bundle(Path(sys.argv[1]))\n"
        "    assert not audit.passed\n"
        "except ConfigError:\n"
        "    pass\n"
        # The kernel's `ru_maxrss` would be that of the tests, from which it was forked.
        f"lines = Path('{STATUS}').read_text().splitlines()\n"
        "print(next(line.split()[1] for line in lines if line.startswith('VmHWM:')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < MEMORY, f"{int(done.stdout) >> 10} MiB"


def test_a_ledger_of_empty_lines(tmp_path: Path) -> None:
    """Two million lines are more than a ledger has; none of them is kept."""
    inside = {**evidence().files, "ledgers/s1.jsonl": b"\n" * (2 << 20)}
    files = sealed(inside, evidence().world.charter, HUB)
    found = told(write_zip(files, tmp_path / "run.zip"))
    assert isinstance(found, Audit)
    assert not found.passed
