"""The Helm chart: what it makes of its values, by Helm's own library, and whether Kubernetes' schemas know it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

helm = pytest.importorskip("helm_python", reason="needs helm-python-sdk: `make charts`")
kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate: `make charts`")

import infl  # noqa: E402

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = DEPLOY / "helm"
ABOUT = yaml.safe_load((CHART / "Chart.yaml").read_text())
OLDEST = ABOUT["kubeVersion"].removeprefix(">=").removesuffix(".0-0")
DIGEST = "sha256:" + "0123456789abcdef" * 4


def rendered(values: dict[str, Any] | None = None, name: str = "infl") -> dict[str, dict[str, Any]]:
    """Return what the chart makes, by kind and name; each document is one that Kubernetes' schemas allow."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(values or {}, name=name, namespace="infl")
    found = [of for text in files.values() for of in yaml.safe_load_all(text) if of]
    for document in found:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    return {f"{of['kind']} {of['metadata']['name']}": of for of in found}


def written() -> dict[str, dict[str, Any]]:
    """Return the manifests for those who have no Helm."""
    paths = [DEPLOY / "kubernetes" / name for name in ("coordinator.yaml", "site.yaml")]
    return {
        f"{of['kind']} {of['metadata']['name']}": of for path in paths for of in yaml.safe_load_all(path.read_text())
    }


def test_the_chart_has_no_finding() -> None:
    report = helm.lint(CHART, strict=True, kube_version=f"v{OLDEST}.0")
    assert report["errors"] == [] and [each["error"] for each in report["messages"]] == ["icon is recommended"]
    assert ABOUT["version"] == ABOUT["appVersion"] == infl.__version__


def test_with_its_own_values_it_makes_the_manifests() -> None:
    """But for the image's tag, which `kustomization.yaml` sets for them."""
    found = rendered()
    for document in found.values():
        pod = document["spec"].get("template", {}).get("spec", {})
        for container in (*pod.get("containers", []), *pod.get("initContainers", [])):
            assert container["image"] == f"infl:{infl.__version__}"
            container["image"] = "infl"
    assert found == written()


@pytest.mark.parametrize("name", written())
@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
def test_manifests_are_what_kubernetes_knows(name: str, version: str) -> None:
    kubernetes_validate.validate(written()[name], version, strict=True)


def test_a_hospital_takes_its_part_alone() -> None:
    values = {
        "coordinator": {"enabled": False},
        "site": {
            "args": ["study", "site", "study.toml"], "secret": "keys", "dataClaim": "cohort-2", "claim": "mine", "coordinatorPort": 443,
            "resources": {"limits": {"nvidia.com/gpu": 1}}, "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "env": [{"name": "INFL_KEY_PASSPHRASE", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "words"}}}],
        },
        "image": {"repository": "registry.example.org/infl", "digest": DIGEST, "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "registry"}], "metrics": {"port": 0},
    }  # fmt: skip
    found = rendered(values, name="hospital-b")
    assert set(found) == {f"{kind} hospital-b-site" for kind in ("StatefulSet", "Service", "NetworkPolicy")}
    pod = found["StatefulSet hospital-b-site"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"registry.example.org/infl@{DIGEST}" and container["imagePullPolicy"] == "Always"
    assert container["args"] == ["study", "site", "study.toml"] and "ports" not in container
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 1}
    assert [of["name"] for of in container["env"]] == ["INFL_IDENTITY", "INFL_KEY_PASSPHRASE"]
    assert (pod["nodeSelector"], pod["imagePullSecrets"]) == ({"pool": "gpu"}, [{"name": "registry"}])
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["home"]["persistentVolumeClaim"] == {"claimName": "mine"}
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "cohort-2", "readOnly": True}
    assert volumes["secret"]["secret"]["secretName"] == "keys"
    policy = found["NetworkPolicy hospital-b-site"]["spec"]
    assert "ingress" not in policy and policy["egress"][0] == {"ports": [{"port": 443, "protocol": "TCP"}]}


def test_before_the_oldest_cluster_a_job_cannot_fail_at_an_exit_code_alone() -> None:
    major, minor = OLDEST.split(".")
    with pytest.raises(kubernetes_validate.ValidationError, match="onPodConditions"):
        kubernetes_validate.validate(written()["Job infl-coordinator"], f"{major}.{int(minor) - 1}", strict=True)


def test_who_only_coordinates_takes_that_part() -> None:
    values = {
        "coordinator": {
            "port": 443,
            "service": {"type": "NodePort", "annotations": {"a/b": "c"}},
            "storageClass": "fast",
        },
        "site": {"enabled": False},
    }
    found = rendered(values, name="study")
    assert {name.partition(" ")[2] for name in found} == {"study-coordinator"}
    assert found["Service study-coordinator"]["spec"]["ports"][0]["port"] == 443
    assert found["Service study-coordinator"]["metadata"]["annotations"] == {"a/b": "c"}
    assert found["PersistentVolumeClaim study-coordinator"]["spec"]["storageClassName"] == "fast"
    ports = found["Job study-coordinator"]["spec"]["template"]["spec"]["containers"][0]["ports"]
    assert {port["name"]: port["containerPort"] for port in ports} == {"sites": 443, "metrics": 9464}


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"site": {"coordinatorPort": 70000}}, "coordinatorPort"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"site": {"dataclaim": "cohort"}}, "dataclaim"),
        ({"coordinator": {"service": {"type": "Ingress"}}}, "type"),
        ({"coordinator": {"storage": "much"}}, "storage"),
        ({"replicas": 2}, "replicas"),
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, Any], where: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError, match=where):
        chart.validate_schema(values)
