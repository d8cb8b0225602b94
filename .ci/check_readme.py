"""Check that the README shows what `fedit --help` prints, and that every link of the
documents leads somewhere. `--write` puts the current help text into the README.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- help:begin -->\n", "<!-- help:end -->\n"
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def help_text() -> str:
    """What `fedit --help` prints on a plain terminal of 88 columns."""
    forced = {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TERMINAL_WIDTH"}
    env = {k: v for k, v in os.environ.items() if k not in forced}
    done = subprocess.run(
        [str(Path(sys.executable).parent / "fedit"), "--help"],
        env={**env, "COLUMNS": "88", "NO_COLOR": "1", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.rstrip() for line in done.stdout.strip("\n").splitlines())
    return "\n".join(lines).strip("\n")


def main() -> int:
    """Print each difference found; return their number."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print("README.md needs one help block between its two markers", file=sys.stderr)
        return 1
    head, rest = text.split(BEGIN)
    shown, tail = rest.split(END)
    current = f"```console\n$ fedit --help\n{help_text()}\n```\n"

    problems = 0
    if shown != current and "--write" in sys.argv[1:]:
        readme.write_text(head + BEGIN + current + END + tail, encoding="utf-8")
        print("README.md now shows the current help text")
    elif shown != current:
        print(
            "README.md doesn't show what `fedit --help` prints;"
            " run .venv/bin/python .ci/check_readme.py --write",
            file=sys.stderr,
        )
        problems += 1

    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*.md")]
    for document in sorted(set(documents)):
        for target in LINK.findall(document.read_text(encoding="utf-8")):
            if not (document.parent / target).exists():
                name = document.relative_to(ROOT)
                print(f"{name} links to {target}, which isn't there", file=sys.stderr)
                problems += 1
    return problems


if __name__ == "__main__":
    sys.exit(min(main(), 1))
