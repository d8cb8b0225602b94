"""Where the demo's base model lies. Needs no torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

MANIFEST = "manifest.json"


def base_model_path() -> Path:
    """The folder of the packaged base model: a Hugging Face folder with a manifest."""
    return Path(str(resources.files("fedit_secure.demo") / "base_model"))
