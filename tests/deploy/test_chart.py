"""The Helm chart: linted, rendered for each role, and held to Kubernetes' own schemas."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest
import yaml
from deploy.deployed import DEPLOY, ROOT

from fedit_secure.config import AggregatorConfig, SiloConfig
from fedit_secure.federation.page import PageConfig

CHART = DEPLOY / "helm" / "fedit-secure"
# Helm's library is a runtime of its own, with its own signal handlers: in a process of
# its own, too.
PROGRAM = """
import json, sys
import helm_python as helm
chart, values = json.load(sys.stdin)
try:
    found = {"lint": helm.lint(chart, values, strict=True)}
    found["files"] = helm.Chart.load(chart).render(values, name="north", namespace="fed")
except helm.HelmError as error:
    found = {"error": str(error)}
json.dump(found, sys.stdout)
"""
SILO = {
    "role": "silo",
    "files": {"silo.yaml": "name: north\n", "policy.yaml": "x: 1\n"},
}
HUB = {"role": "aggregator", "files": {"aggregator.yaml": "listen: 0.0.0.0:7443\n"}}
WHOLE = SILO | {
    "image": {"repository": "registry.example/silo", "digest": f"sha256:{'0' * 64}"},
    "identity": {"existingSecret": "north-keys"},
    "passphrase": {"existingSecret": "north-passphrase"},
    "persistence": {"storageClass": "fast"},
    "records": {"existingClaim": "records"},
    "model": {"existingClaim": "model"},
    "networkPolicy": {"aggregatorCIDRs": ["192.0.2.10/32"]},
    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "32Gi"}},
    "runtimeClassName": "nvidia",
    "env": {"FEDIT_DEVICE": "cuda"},
    "nodeSelector": {"gpu": "yes"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "podAnnotations": {"site": "north"},
    "imagePullSecrets": [{"name": "registry"}],
}
SETUP = {"role": "silo", "setup": True}
OPEN = HUB | {
    "networkPolicy": {"siloCIDRs": ["198.51.100.0/24"]},
    "service": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}},
}
SEEN = SILO | {"page": True}
SEEN_HUB = HUB | {"page": True}
CASES = {
    "seen": SEEN,
    "seen-hub": SEEN_HUB,
    "silo": SILO,
    "aggregator": HUB,
    "whole": WHOLE,
    "setup": SETUP,
    "open": OPEN,
}
Objects = dict[str, dict[str, Any]]


def helm(values: dict[str, Any]) -> dict[str, Any]:
    """What Helm says of the chart with these values."""
    if find_spec("helm_python") is None:
        pytest.skip("helm-python-sdk isn't installed; `make deploy-check` installs it")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([str(CHART), values]),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(done.stdout))


@cache
def rendered(case: str) -> Objects:
    """The objects of one case, by kind."""
    files = helm(CASES[case])["files"]
    texts = (text for name, text in files.items() if name.endswith(".yaml"))
    objects = [o for text in texts for o in yaml.safe_load_all(text) if o]
    assert len({o["kind"] for o in objects}) == len(objects)
    return {o["kind"]: o for o in objects}


def pod(case: str) -> dict[str, Any]:
    return dict(rendered(case)["StatefulSet"]["spec"]["template"]["spec"])


@pytest.mark.parametrize("case", CASES)
def test_lint_finds_nothing(case: str) -> None:
    found = helm(CASES[case])["lint"]
    assert found["errors"] == []
    told = {m["error"] for m in found["messages"]}
    assert told <= {"icon is recommended"}


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_what_kubernetes_takes(case: str) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="`make deploy-check` installs it"
    )
    assert rendered(case)
    for made in rendered(case).values():
        for version in ("1.29", validate.latest_version()):
            validate.validate(made, version, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_a_pod_is_confined_and_alone(case: str) -> None:
    spec = pod(case)
    assert rendered(case)["StatefulSet"]["spec"]["replicas"] == 1
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert ":latest" not in container["image"]
    claim = rendered(case)["StatefulSet"]["spec"]["volumeClaimTemplates"][0]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    kept = rendered(case)["StatefulSet"]["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert set(kept.values()) == {"Retain"}


def test_a_silo_lets_nobody_in_and_goes_to_one_port() -> None:
    policy = rendered("whole")["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    names, hub = policy["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert hub == {
        "ports": [{"port": 7443, "protocol": "TCP"}],
        "to": [{"ipBlock": {"cidr": "192.0.2.10/32"}}],
    }
    assert "ports" not in pod("whole")["containers"][0]
    assert "ports" not in rendered("whole")["Service"]["spec"]


def test_an_aggregator_is_dialled_and_dials_nobody() -> None:
    policy = rendered("open")["NetworkPolicy"]["spec"]
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"ipBlock": {"cidr": "198.51.100.0/24"}}]
    (port,) = rendered("open")["Service"]["spec"]["ports"]
    (container,) = pod("open")["containers"]
    listen = {e["name"]: e.get("value") for e in container["env"]}["FEDIT_LISTEN"]
    assert (port["port"], listen) == (443, "0.0.0.0:443")


def test_probes_are_there_but_in_set_up() -> None:
    assert pod("silo")["containers"][0]["livenessProbe"]["exec"]["command"][:3] == [
        "fedit",
        "silo",
        "status",
    ]
    hub = pod("aggregator")["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert hub[probe]["grpc"] == {"port": 7444}
    assert {"name": "FEDIT_HEALTH", "value": "0.0.0.0:7444"} in hub["env"]
    (waiting,) = pod("setup")["containers"]
    assert waiting["command"] == ["sleep", "infinity"]
    assert not [key for key in waiting if key.endswith("Probe")]


@pytest.mark.parametrize("case", CASES)
def test_a_pods_environment_names_keys_of_the_configuration(case: str) -> None:
    (container,) = pod(case)["containers"]
    model = AggregatorConfig if CASES[case]["role"] == "aggregator" else SiloConfig
    names = [e["name"] for e in container["env"] if e["name"].startswith("FEDIT_")]
    keys = {n.removeprefix("FEDIT_").partition("__")[0].lower() for n in names}
    assert keys <= set(model.model_fields)


def test_where_the_page_is_on_a_silo_is_asked_there_and_nobody_else_can() -> None:
    """Kubernetes runs the probe inside of the pod."""
    (silo,) = pod("seen")["containers"]
    (listen,) = [e["value"] for e in silo["env"] if e["name"] == "FEDIT_PAGE__LISTEN"]
    assert PageConfig(listen=listen).public is False  # it takes loopback alone
    for probe in ("startupProbe", "livenessProbe"):
        python, dash_m, module, address = silo[probe]["exec"]["command"]
        assert (python, dash_m, address) == ("python", "-m", listen)
        assert find_spec(module)
    assert "ports" not in silo
    assert rendered("seen")["NetworkPolicy"]["spec"]["ingress"] == []
    (hub,) = pod("seen-hub")["containers"]
    assert {"name": "FEDIT_PAGE__LISTEN", "value": listen} in hub["env"]
    assert hub["livenessProbe"]["grpc"] == {"port": 7444}


def test_secrets_are_named_and_never_in_a_value() -> None:
    for made in rendered("whole").values():
        assert made["kind"] != "Secret"
    sources = [
        v["secret"]["secretName"] for v in pod("whole")["volumes"] if "secret" in v
    ]
    assert sources == ["north-keys", "north-passphrase"]
    assert not [e for e in pod("whole")["containers"][0]["env"] if "valueFrom" in e]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"role": "client"}, "/role"),
        (SILO | {"image": {"tag": "latest"}}, "/image/tag"),
        (SILO | {"image": {"digest": "sha256:0"}}, "/image/digest"),
        (SILO | {"replicas": 2}, "replicas"),
        (HUB | {"service": {"port": 7444}}, "/service/port"),
        (HUB | {"service": {"port": 9464}}, "/service/port"),
        (SILO | {"page": "yes"}, "/page"),
        (SILO | {"files": {"identity.key": "00"}}, "'identity.key'"),
        (SILO | {"networkPolicy": {"siloCIDRs": ["everywhere"]}}, "/networkPolicy"),
        (SILO | {"files": {"policy.yaml": "x: 1\n"}}, "files lacks silo.yaml"),
    ],
)
def test_values_that_are_wrong_are_refused(values: dict[str, Any], said: str) -> None:
    assert said in helm(values)["error"]


def test_the_charts_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == project["version"]


def test_every_value_has_a_rule_and_every_rule_a_value() -> None:
    """Without Helm: the schema's properties are those of values.yaml, at each depth."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def same(rule: dict[str, Any], value: Any, where: str) -> None:
        rule = (
            schema["definitions"][rule["$ref"].split("/")[-1]]
            if "$ref" in rule
            else rule
        )
        if isinstance(value, dict) and "properties" in rule:
            assert rule["additionalProperties"] is False, where
            assert set(rule["properties"]) - {"global"} == set(value), where
            for key, part in value.items():
                same(rule["properties"][key], part, f"{where}/{key}")

    same(schema, values, "")
