"""The Compose file: an aggregator and two silos, shut in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy.deployed import DEPLOY
from pydantic import TypeAdapter

from fedit_secure.config import AggregatorConfig, SiloConfig
from fedit_secure.federation.page import PageConfig

FILE = DEPLOY / "compose" / "compose.yaml"


def interpolated() -> str:
    """The file with the defaults of its variables, as without an environment."""
    text = FILE.read_text(encoding="utf-8")
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return TypeAdapter(dict[str, Any]).validate_python(yaml.safe_load(interpolated()))


def test_it_is_what_the_compose_specification_allows(compose: dict[str, Any]) -> None:
    spec = pytest.importorskip("compose_spec", reason="`make deploy-check` installs it")
    # As it is once YAML's own merges are done, which the library knows in services only.
    merged = {key: value for key, value in compose.items() if key[:2] != "x-"}
    text = json.dumps(merged)
    read = spec.PyCompose.from_json(text)
    read.validate()
    assert sorted(read.service_names()) == ["aggregator", "north", "south"]
    with pytest.raises(ValueError, match="read_olny"):
        spec.PyCompose.from_json(text.replace("read_only", "read_olny"))


@pytest.mark.parametrize("name", ["aggregator", "north", "south"])
def test_a_service_is_shut_in(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["user"] == "10001:10001"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["ulimits"] == {"core": 0}
    assert "ports" not in service
    assert service["networks"] == ["federation"]
    dockerfile = service["build"]["dockerfile"]
    assert (FILE.parent / service["build"]["context"] / dockerfile).is_file()


def test_nobody_has_a_way_out(compose: dict[str, Any]) -> None:
    assert compose["networks"] == {"federation": {"internal": True}}


def test_state_is_each_ones_own_and_secrets_are_files(compose: dict[str, Any]) -> None:
    states = [
        mount.partition(":")[0]
        for service in compose["services"].values()
        for mount in service["volumes"]
        if mount.endswith(":/var/lib/fedit")
    ]
    assert sorted(states) == sorted(compose["volumes"])
    assert all("file" in secret for secret in compose["secrets"].values())
    given = [s["source"] for x in compose["services"].values() for s in x["secrets"]]
    assert sorted(given) == sorted(compose["secrets"])


def test_a_silos_page_is_its_own_containers(compose: dict[str, Any]) -> None:
    """The image's health check asks it where this says."""
    for name in ("north", "south"):
        listen = compose["services"][name]["environment"]["FEDIT_PAGE__LISTEN"]
        assert PageConfig(listen=listen).public is False


@pytest.mark.parametrize("name", ["aggregator", "north"])
def test_the_environment_names_keys_of_the_configuration(
    compose: dict[str, Any], name: str
) -> None:
    model = AggregatorConfig if name == "aggregator" else SiloConfig
    for variable in compose["services"][name]["environment"]:
        if variable.startswith("FEDIT_"):
            first = variable.removeprefix("FEDIT_").partition("__")[0].lower()
            assert first in model.model_fields


def test_what_a_silo_reads_is_mounted_for_reading(compose: dict[str, Any]) -> None:
    service = compose["services"]["north"]
    modes = {m.split(":")[1]: m.split(":")[2:] for m in service["volumes"]}
    assert modes[service["environment"]["FEDIT_MODEL"]] == ["ro"]
    assert modes[service["environment"]["FEDIT_DATA__PATH"]] == ["ro"]
    assert Path(service["environment"]["FEDIT_DATA__PATH"]).suffix == ".jsonl"
