"""A tuning worker that says where it is, and goes on when it is told to.

It speaks the worker's protocol on its standard streams. Below the folder in SLOW_WORKER it
writes its process number to `sampling`, once it is paid for, and waits there until there is
a file `go`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(os.environ["SLOW_WORKER"])


def say(**fields: object) -> None:
    sys.stdout.buffer.write(json.dumps(fields).encode() + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    job = json.loads(sys.stdin.readline())
    length = 0
    for _, shape in job["layout"]:
        size = 1
        for side in shape:
            size *= side
        length += size
    say(phase="ready")
    if sys.stdin.readline().strip() != "sample":
        return
    (HERE / "draft").write_text(str(os.getpid()))
    (HERE / "draft").rename(HERE / "sampling")
    while not (HERE / "go").exists():
        time.sleep(0.02)
    update = bytes(4 * length)
    say(phase="done", length=length, sha256=hashlib.sha256(update).hexdigest())
    sys.stdout.buffer.write(update)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
