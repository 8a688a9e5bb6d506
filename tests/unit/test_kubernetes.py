"""The manifests in deploy/kubernetes fit the program, its image and each other."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.ops.monitor import Monitor
from bridge.ops.server import application
from bridge.settings import OpsSettings, Settings, load_settings
from bridge.settings.load import CONFIG, env_name
from bridge.settings.model import KEYS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
IMAGE = (ROOT / "Dockerfile").read_text()
OURS = {"app.kubernetes.io/name": "asm-bridge"}


def manifests() -> dict[str, Any]:
    """The documents of the base by their kind; the file list is the kustomization's."""
    listed = yaml.safe_load((FOLDER / "base/kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(path.name for path in (FOLDER / "base").glob("*.yaml"))
    documents = [one for name in listed for one in yaml.safe_load_all((FOLDER / "base" / name).read_text())]
    return {one["kind"]: one for one in documents}


BASE = manifests()
STATEFUL_SET = BASE["StatefulSet"]["spec"]
POD = STATEFUL_SET["template"]["spec"]
CONTAINER = POD["containers"][0]


def settings_of(folder: str, monkeypatch: pytest.MonkeyPatch, **secrets: str) -> Settings:
    for name in [name for name in os.environ if name.upper().startswith("ASM_BRIDGE_")]:
        monkeypatch.delenv(name)
    return load_settings(FOLDER / folder / "asm-bridge.toml", secrets)


def test_pods_run_with_the_least_rights() -> None:
    """A pod runs as the image's user, cannot write to its root file system, and has no capability and no token of the
    cluster.
    """
    assert POD["automountServiceAccountToken"] is False
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user, group = re.findall(r"^USER (\d+):(\d+)$", IMAGE, re.MULTILINE)[0]
    assert (POD["securityContext"]["runAsUser"], POD["securityContext"]["runAsGroup"]) == (int(user), int(group))
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    secrets = next(volume["secret"] for volume in POD["volumes"] if volume["name"] == "secrets")
    assert (secrets["defaultMode"], POD["securityContext"]["fsGroup"]) == (0o440, int(group))
    assert "memory" in CONTAINER["resources"]["limits"]
    assert {"cpu", "memory"} <= CONTAINER["resources"]["requests"].keys()


def test_the_environment_of_a_pod_holds_settings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable of a pod is a setting, the paths are mounted, and Kubernetes adds no variables of services."""
    assert POD["enableServiceLinks"] is False
    variables = {one["name"]: one for one in CONTAINER["env"]}
    assert variables.keys() <= {CONFIG, *map(env_name, KEYS)}
    mounted = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert mounted.keys() >= {
        str(Path(variables[CONFIG]["value"]).parent),
        variables["ASM_BRIDGE_SECRETS_DIR"]["value"],
    }
    assert set(mounted.values()) == {volume["name"] for volume in POD["volumes"]}
    assert variables["ASM_BRIDGE_KAFKA__GROUP_INSTANCE_ID"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize("folder", ["base", "example"])
def test_the_settings_file_is_accepted(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program accepts the settings, and there are no more pods than partitions."""
    settings = settings_of(folder, monkeypatch, **{"kafka.sasl_password": "x"} if folder == "example" else {})
    changed = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text()).get("replicas", [])
    replicas = changed[0]["count"] if changed else STATEFUL_SET["replicas"]
    assert 1 < replicas <= settings.topics.partitions
    assert settings.kafka.session_timeout > Settings().kafka.session_timeout


def test_a_pod_has_time_to_hand_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod is killed only well after the drain time-out, and one pod at a time is replaced or evicted."""
    assert POD["terminationGracePeriodSeconds"] >= settings_of("base", monkeypatch).drain_timeout + 20
    assert STATEFUL_SET["updateStrategy"] == {"type": "RollingUpdate"}
    assert BASE["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_probes_and_scrapes_ask_endpoints_that_exist() -> None:
    """The probes, the annotations for Prometheus and the Service lead to the ops endpoints of the image."""
    port = int(re.findall(r"ASM_BRIDGE_OPS__LISTEN=0\.0\.0\.0:(\d+)", IMAGE)[0])
    assert CONTAINER["ports"] == [{"name": "ops", "containerPort": port}]
    annotations = STATEFUL_SET["template"]["metadata"]["annotations"]
    assert (annotations["prometheus.io/scrape"], annotations["prometheus.io/port"]) == ("true", str(port))
    assert [(one["port"], one["targetPort"]) for one in BASE["Service"]["spec"]["ports"]] == [(port, "ops")]
    probes = [CONTAINER[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")]
    assert {probe["port"] for probe in probes} == {"ops"}
    paths = [probe["path"] for probe in probes] + [annotations["prometheus.io/path"]]
    assert paths == ["/healthz", "/readyz", "/metrics"]
    app = application(_no_snapshot, Monitor(_no_snapshot), OpsSettings())
    served = {getattr(route, "path", "") for route in app.routes}
    assert set(paths) <= served


def _no_snapshot() -> Any:
    raise AssertionError


def test_everything_selects_the_pods() -> None:
    """The Service, the disruption budget, the network policy and the set all select the pods by the same label."""
    assert STATEFUL_SET["template"]["metadata"]["labels"] == OURS
    assert STATEFUL_SET["serviceName"] == BASE["Service"]["metadata"]["name"]
    assert BASE["Service"]["spec"]["selector"] == OURS
    assert STATEFUL_SET["selector"]["matchLabels"] == OURS
    assert BASE["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == OURS
    assert BASE["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == OURS
    assert BASE["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.skipif(shutil.which("kustomize") is None, reason="kustomize is not on this machine")
def test_the_example_is_rendered() -> None:
    """Kustomize renders the example: its image, its number of pods, and settings that a changed name rolls out."""
    done = subprocess.run(["kustomize", "build", FOLDER / "example"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rendered = {one["kind"]: one for one in yaml.safe_load_all(done.stdout)}
    assert rendered.keys() == {*BASE, "ConfigMap"}
    pod = rendered["StatefulSet"]["spec"]["template"]["spec"]
    assert rendered["StatefulSet"]["spec"]["replicas"] == 4
    assert pod["containers"][0]["image"].startswith("registry.example.com/")
    settings = next(volume["configMap"]["name"] for volume in pod["volumes"] if volume["name"] == "settings")
    assert settings == rendered["ConfigMap"]["metadata"]["name"] != "asm-bridge"
    assert rendered["ConfigMap"]["data"]["asm-bridge.toml"] == (FOLDER / "example/asm-bridge.toml").read_text()
