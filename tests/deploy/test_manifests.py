"""The Kubernetes manifests, rendered by kubectl and validated against the schemas of their readers."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="run by `make lint-deploy`")

ROOT = Path(__file__).resolve().parents[2]
KUSTOMIZE = ROOT / "deploy" / "kustomize"
FOLDERS = [*sorted((KUSTOMIZE / "overlays").iterdir()), KUSTOMIZE / "ray"]
#: Oldest and newest that are supported: gRPC probes are stable from the first on.
RELEASES = ("1.28", "1.33")
#: Packages of the npm registry with the operators' schemas. There is none with KubeRay's.
CRD_PACKAGES = ("@kubernetes-models/keda@2.0.0", "@kubernetes-models/prometheus-operator@6.0.0")
OPERATORS = {"ServiceMonitor": "prometheus-operator", "ScaledObject": "keda", "RayJob": None}
SERVICES = ("generation", "novelty", "verification")


def render(folder: Path) -> list[dict[str, Any]]:
    """Return the output of `kubectl kustomize` for a folder."""
    command = ["kubectl", "kustomize", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return [document for document in yaml.safe_load_all(made.stdout) if document]


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[dict[str, Any]]]:
    """Each overlay's manifests, and the Ray job's."""
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl: apt-get install kubernetes-client")
    version = subprocess.run(
        ["kubectl", "version", "--client", "--output", "json"], capture_output=True, text=True, check=True
    )
    if int(json.loads(version.stdout)["clientVersion"]["minor"].rstrip("+")) < 27:
        pytest.skip("this kubectl's kustomize is too old: 1.27 or newer")
    return {folder.name: render(folder) for folder in FOLDERS}


def pods(documents: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod templates in the manifests, KubeRay's too, with the names of what they are in."""
    for document in documents:
        spec = document.get("spec", {})
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] == "RayJob":
            cluster = spec["rayClusterSpec"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                yield name, group["template"]
        elif document["kind"] in ("Deployment", "StatefulSet"):
            yield name, spec["template"]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", [folder.name for folder in FOLDERS])
def test_manifests_are_as_the_schemas_of_kubernetes_say(
    name: str, release: str, rendered: dict[str, list[dict[str, Any]]]
) -> None:
    for document in rendered[name]:
        if document["kind"] not in OPERATORS:
            kubernetes_validate.validate(document, release, strict=True)
    for _, template in pods(rendered[name]):
        # Also those inside what Kubernetes itself does not know.
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {**template["metadata"], "name": "pod"}
        kubernetes_validate.validate(pod, release, strict=True)


def test_what_operators_read_is_as_their_schemas_say(
    rendered: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    if not shutil.which("npm"):
        pytest.skip("npm is not installed: apt-get install npm")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *CRD_PACKAGES]
    subprocess.run(install, cwd=tmp_path, check=True)
    documents = [
        (OPERATORS[document["kind"]], document)
        for overlay in rendered.values()
        for document in overlay
        if OPERATORS.get(document["kind"])
    ]
    assert {document["kind"] for _, document in documents} == {"ServiceMonitor", "ScaledObject"}
    script = """
      import { readFileSync } from "node:fs";
      for (const [operator, document] of JSON.parse(readFileSync(0))) {
        const models = await import(`@kubernetes-models/${operator}/${document.apiVersion}`);
        new models[document.kind](document).validate();
      }
    """
    (tmp_path / "check.mjs").write_text(script)
    checked = subprocess.run(
        ["node", "check.mjs"], cwd=tmp_path, input=json.dumps(documents), text=True, capture_output=True
    )
    assert checked.returncode == 0, checked.stderr


def test_no_pod_has_more_rights_than_it_needs(rendered: dict[str, list[dict[str, Any]]]) -> None:
    seen = 0
    for overlay in rendered.values():
        for owner, template in pods(overlay):
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True, owner
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
            assert pod["automountServiceAccountToken"] is False, owner
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }, owner
                assert container["resources"]["limits"]["memory"], owner
                assert container["livenessProbe"], owner
                assert container["readinessProbe"], owner
                seen += 1
    assert seen == 3 * 5 + 3 + 2


@pytest.mark.parametrize("name", ["cpu", "gpu", "redis", "tls", "keda"])
def test_each_service_has_its_probes_budget_policy_and_headless_name(
    name: str, rendered: dict[str, list[dict[str, Any]]]
) -> None:
    found = {(document["kind"], document["metadata"]["name"]): document for document in rendered[name]}
    for service in SERVICES:
        workload = (
            found.get(("Deployment", f"extra-rl-{service}")) or found["StatefulSet", f"extra-rl-{service}"]
        )
        probe = workload["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
        if name == "tls":
            assert probe["exec"]["command"] == ["extra-rl", "health", service]
            assert "grpc" not in probe
        else:
            assert probe["grpc"]["service"] == f"extra_rl.v1.{service.title()}Service"
        labels = workload["spec"]["template"]["metadata"]["labels"]
        budget = found["PodDisruptionBudget", f"extra-rl-{service}"]["spec"]["selector"]["matchLabels"]
        address = found["Service", f"extra-rl-{service}"]["spec"]
        assert budget.items() <= labels.items()
        assert address["selector"].items() <= labels.items()
        assert address["clusterIP"] == "None"
    refused = found["NetworkPolicy", "extra-rl-default-deny"]["spec"]
    assert refused["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in refused
    scaled = ("ScaledObject", "extra-rl-verification") in found
    # Two that scale one deployment would fight.
    assert scaled != (("HorizontalPodAutoscaler", "extra-rl-verification") in found)
    assert scaled == (name == "keda")
    replicated = found["Deployment", "extra-rl-novelty"]["spec"]["replicas"] > 1
    assert replicated == (name in ("redis", "tls", "keda")), "only a memory in Redis can be shared"
    assert (("ServiceMonitor", "extra-rl-novelty") in found) == (name != "cpu")


def test_with_tls_nothing_is_served_in_plain_text_and_tokens_come_from_a_secret(
    rendered: dict[str, list[dict[str, Any]]],
) -> None:
    for owner, template in pods(rendered["tls"]):
        container = template["spec"]["containers"][0]
        names = {entry["name"]: entry for entry in container["env"]}
        assert not [word for word in names if word.endswith("ALLOW_PLAINTEXT_NETWORK")], owner
        if container["name"] in SERVICES:
            prefix = f"EXTRA_RL_{container['name'].upper()}"
            assert names[f"{prefix}_TOKENS"]["valueFrom"]["secretKeyRef"]["name"] == "extra-rl-tokens"
            assert names[f"{prefix}_TLS_CERTIFICATE"]["value"] == "/tls/tls.crt"


def test_the_secrets_made_are_those_the_overlays_ask_for(
    rendered: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    script = KUSTOMIZE / "make-secrets.sh"
    made = subprocess.run([str(script), str(folder)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    documents = [document for document in yaml.safe_load_all(made.stdout) if document]
    for document in documents:
        kubernetes_validate.validate(document, RELEASES[-1], strict=True)
    secrets = {document["metadata"]["name"]: set(document["data"]) for document in documents}
    wanted: dict[str, set[str]] = {}
    for _, template in pods(rendered["tls"]):
        for volume in template["spec"].get("volumes", []):
            if "secret" in volume:
                wanted.setdefault(volume["secret"]["secretName"], {"tls.crt", "tls.key", "ca.crt"})
        for entry in template["spec"]["containers"][0]["env"]:
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                wanted.setdefault(reference["name"], set()).add(reference["key"])
    assert all(keys <= secrets[name] for name, keys in wanted.items())
    verify = ["openssl", "verify", "-CAfile", "ca.crt", "-purpose", "sslserver"]
    for name in ("extra-rl-novelty", "extra-rl-generation-1.extra-rl-generation", "localhost"):
        subprocess.run([*verify, "-verify_hostname", name, "tls.crt"], cwd=folder, check=True)
    again = subprocess.run([str(script), str(folder)], capture_output=True, text=True)
    assert again.returncode != 0, "an authority that is in use must not be overwritten"


def test_no_check_of_checkov_fails(rendered: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    for name, documents in rendered.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(documents))
    command = [
        "checkov",
        "--config-file",
        str(ROOT / "deploy" / ".checkov.yaml"),
        "--directory",
        str(tmp_path),
    ]
    checkov = Path(kubernetes_validate.__file__).parents[4] / "bin" / "checkov"
    checked = subprocess.run([str(checkov), *command[1:]], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
