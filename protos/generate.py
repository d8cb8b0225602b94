"""Generate fedit_secure/wire/pb from protos/, or with --check see that it is up to
date.

The specification is given to protoc under the package's own path, so that the generated
module imports as it lies and its name in the descriptor pool is unique.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "protos" / "fedit_secure" / "v1"
TARGET = Path("fedit_secure") / "wire" / "pb"
GENERATED = ("federation_pb2.py", "federation_pb2.pyi")


def generate(into: Path) -> None:
    """Write the generated modules below `into`; SystemExit if protoc refuses."""
    status = protoc.main(
        [
            "protoc",
            f"-I{TARGET.as_posix()}={SOURCE}",
            f"--python_out={into}",
            f"--pyi_out={into}",
            f"{TARGET.as_posix()}/federation.proto",
        ]
    )
    if status:
        raise SystemExit(f"protoc ended with status {status}")


def stale() -> list[str]:
    """The generated files that differ from what the specification yields now."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        return [
            name
            for name in GENERATED
            if not (ROOT / TARGET / name).is_file()
            or (ROOT / TARGET / name).read_bytes()
            != (Path(scratch) / TARGET / name).read_bytes()
        ]


def main(arguments: list[str]) -> None:
    """Write, or with --check end with status 1 on a difference."""
    if arguments == ["--check"]:
        if names := stale():
            raise SystemExit(
                f"{', '.join(names)} differ from protos/: run `make protos`"
            )
    elif arguments:
        raise SystemExit("usage: generate.py [--check]")
    else:
        generate(ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
