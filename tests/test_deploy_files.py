"""The image, the compose file and the chart, as far as they can be looked at without running them.

The chart is rendered by helm itself where helm is (`HOOP_HELM` or the PATH); nothing here imitates it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from hoop_core.config import Settings
from hoop_core.policy.file import load_policy, parse_policy

ROOT = Path(__file__).parent.parent
CHART = ROOT / "deploy/helm/hoop"
HELM = os.environ.get("HOOP_HELM") or shutil.which("helm")
_KUBE = ("--kube-version", "1.29.0")  # a helm built from source takes another for granted
_INSTRUCTION = re.compile(r"^([A-Z]+)\s+(.*)$")


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [x.strip() for x in text.splitlines() if x.strip() and not x.startswith("#")]
    found = [_INSTRUCTION.match(line) for line in lines]
    return [(m[1], m[2]) for m in found if m]


def last_stage() -> list[tuple[str, str]]:
    every = instructions()
    begins = [n for n, (name, _) in enumerate(every) if name == "FROM"]
    return every[begins[-1] :]


# ---------------------------------------------------------------------- the image


def test_the_image_does_not_run_as_root() -> None:
    users = [value for name, value in last_stage() if name == "USER"]
    assert users and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


def test_images_are_named_with_a_version_and_without_a_host() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    named = [v.split()[0] for n, v in instructions() if n == "FROM"]
    named += [s["image"] for s in compose["services"].values()]
    for image in named:
        name, _, tag = image.partition(":")
        assert tag and tag != "latest", image
        assert "." not in name.split("/")[0], image


def test_nothing_is_fetched_from_an_address() -> None:
    assert "ADD" not in [name for name, _ in instructions()]
    for file in ("Dockerfile", "compose.yaml"):
        text = (ROOT / file).read_text()
        assert "--index" not in text and "--extra-index" not in text
        assert not re.search(r"https?://(?!127\.0\.0\.1)", text)


def test_the_final_stage_builds_and_installs_nothing() -> None:
    commands = " ".join(v for n, v in last_stage() if n == "RUN")
    assert not re.search(r"\b(apt|apt-get|pip|gcc|curl|wget|make)\b", commands)


def test_commands_are_lists_so_that_signals_arrive() -> None:
    for name, value in instructions():
        if name in {"ENTRYPOINT", "CMD"}:
            assert isinstance(json.loads(value), list)
    assert dict(last_stage())["ENTRYPOINT"] == '["hoop"]'
    assert "HEALTHCHECK" in dict(last_stage())


def test_everything_that_is_copied_into_the_image_exists_and_is_let_in() -> None:
    let_in = {x[1:] for x in (ROOT / ".dockerignore").read_text().splitlines() if x.startswith("!")}
    copied = [v.split()[:-1] for n, v in instructions() if n == "COPY" and "--from" not in v]
    for source in (s for sources in copied for s in sources):
        assert (ROOT / source).exists(), source
        assert source in let_in, source


# ---------------------------------------------------------------------- compose


def test_the_composed_gateway_has_settings_that_it_understands() -> None:
    read = tomllib.loads((ROOT / "deploy/compose/gateway.toml").read_text())
    settings = Settings(**read)
    assert settings.gateway.tls_certificate is not None
    assert load_policy(ROOT / "deploy/compose/policy.yaml").digest


def test_the_composed_gateway_may_do_little_and_has_time_to_end() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    gateway = compose["services"]["hoop"]
    assert gateway["read_only"] and gateway["cap_drop"] == ["ALL"]
    assert gateway["security_opt"] == ["no-new-privileges:true"]
    drain = Settings().gateway.drain_seconds
    assert int(gateway["stop_grace_period"].removesuffix("s")) > drain
    for name in ("configs", "secrets"):
        assert {x["source"] for x in gateway[name]} <= compose[name].keys()
    for config in compose["configs"].values():
        assert (ROOT / config["file"]).is_file()
    used = {v.partition(":")[0] for s in compose["services"].values() for v in s["volumes"]}
    assert used == compose["volumes"].keys()


# ---------------------------------------------------------------------- the chart


def test_the_charts_settings_and_policy_are_understood() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert Settings(**tomllib.loads(values["config"])).identity
    assert parse_policy(values["policy"], "values.yaml").digest
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["apiVersion"] == "v2"


def test_every_value_that_a_template_reads_is_in_the_values_file_and_no_other() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    text = "".join(f.read_text() for f in (CHART / "templates").iterdir())
    read = set(re.findall(r"\.Values\.([A-Za-z.]+)", text))
    for path in read:
        here: Any = values
        for part in path.split("."):
            assert part in here, path
            here = here[part]
    assert {p.split(".")[0] for p in read} == values.keys()


def test_environment_variables_of_the_chart_are_settings() -> None:
    text = (CHART / "templates/statefulset.yaml").read_text()
    for section, key in re.findall(r"HOOP_([A-Z]+)__([A-Z_]+)", text):
        model = type(getattr(Settings(), section.lower()))
        assert key.lower() in model.model_fields, (section, key)


def rendered(*arguments: str) -> list[dict[str, Any]]:
    assert HELM is not None
    done = subprocess.run(
        [HELM, "template", "my", str(CHART), "--namespace", "gov", *_KUBE, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [x for x in yaml.safe_load_all(done.stdout) if x]


needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed (HOOP_HELM names it)")


@needs_helm
@pytest.mark.parametrize("everything", [False, True])
def test_helm_renders_the_chart_and_finds_no_fault(everything: bool) -> None:
    sets = [
        "ingress.enabled=true", "autoscaling.enabled=true", "serviceMonitor.enabled=true",
        "tls.clientCaSecret=clients", "trustedProxies={10.0.0.0/8}", "serviceAccount.name=own",
        "networkPolicy.monitoring[0].namespaceSelector.matchLabels.name=monitoring",
        "extraEnv[0].name=X", "extraEnv[0].value=y",
    ]  # fmt: skip
    arguments = [a for s in sets for a in ("--set", s)] if everything else []
    assert HELM is not None
    linted = subprocess.run(
        [HELM, "lint", "--strict", str(CHART), *_KUBE, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout
    kinds = [x["kind"] for x in rendered(*arguments)]
    wanted = ["ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service",
              "ServiceAccount", "StatefulSet"]  # fmt: skip
    if everything:
        wanted += ["HorizontalPodAutoscaler", "Ingress", "ServiceMonitor"]
    assert sorted(kinds) == sorted(wanted)


@needs_helm
def test_the_rendered_pod_is_locked_down_and_selected_by_its_services() -> None:
    made = {(x["kind"], x["metadata"]["name"]): x for x in rendered()}
    workload = made["StatefulSet", "my-hoop"]["spec"]
    pod = workload["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    labels = workload["template"]["metadata"]["labels"]
    for (kind, _), found in made.items():
        if kind == "Service":
            assert found["spec"]["selector"].items() <= labels.items()
    assert ("Service", workload["serviceName"]) in made
    volumes = {v["name"] for v in pod["volumes"]}
    assert {m["name"] for m in container["volumeMounts"]} == volumes
    assert pod["terminationGracePeriodSeconds"] > 60
    (token,) = [v for v in pod["volumes"] if v["name"] == "vault-token"]
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "vault"
    url = next(e for e in container["env"] if e["name"] == "HOOP_GATEWAY__REPLICA_URL")["value"]
    assert url == "https://$(POD_NAME).my-hoop-pods.gov.svc:8750"
