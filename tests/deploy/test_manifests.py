"""The manifests and the compose file agree with the code; make check-manifests holds them against schemas."""

import asyncio
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml
from pydantic import SecretStr

from app.web.server import DRAIN_SECONDS
from app.wiring import DRAIN
from config.settings import Settings
from orders.names import SEARCH_ATTRIBUTES, TASK_QUEUE, model_queue
from sandbox.page import NO_JINJA2
from sandbox.server import serve

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
SILENT_SECONDS: Final = 60  # an event loop that says nothing for so long is worth a restart
DEFAULT: Final = re.compile(r"\$\{\w+:-(.*?)\}")  # of a variable that the caller of compose may set
OF_TEMPORAL: Final = {"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"}

# Imports a program, or a module after -m, where only what requirements.txt names is installed.
AS_IN_THE_IMAGE: Final = """
import re, runpy, sys
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions
from pathlib import Path

def plain(name):
    return re.sub("[-_.]+", "-", name).lower()

held = {plain(name) for name in re.findall("(?m)^([^ =#]+)==", Path("requirements.txt").read_text())}
lacked = {package for package, names in packages_distributions().items() if held.isdisjoint(map(plain, names))}

class Image(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in lacked:
            raise ModuleNotFoundError(f"requirements.txt lacks {name}", name=name)

assert {"jinja2", "pytest"} <= lacked
sys.meta_path.insert(0, Image())
program, *rest = sys.argv[1:]
if program == "-m":
    runpy.run_module(f"{rest[0]}.__main__" if Path(rest[0]).is_dir() else rest[0], run_name="imported")
else:
    runpy.run_path(program, run_name="imported")
"""


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def objects(kind: str) -> Iterator[Any]:
    for folder in ("base", "codec"):
        for path in sorted((KUBERNETES / folder).glob("*.yaml")):
            yield from (each for each in documents(path) if each["kind"] == kind)


DEPLOYMENTS: Final = {each["metadata"]["name"].removeprefix("order-sagas-"): each for each in objects("Deployment")}
PODS: Final = [each["spec"]["template"]["spec"] for kind in ("Deployment", "Job") for each in objects(kind)]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.mark.parametrize(
    "folder", ["base", "codec", "keda", "monitoring", "worker-controller", "worker-controller/template"]
)
def test_kustomize_finds_every_file(folder: str) -> None:
    """A manifest that no kustomization lists would never be applied."""
    (kustomization,) = documents(KUBERNETES / folder / "kustomization.yaml")
    listed = {(KUBERNETES / folder / name).resolve() for name in kustomization["resources"]}
    files = {path for path in (KUBERNETES / folder).glob("*.yaml") if path.name != "kustomization.yaml"}

    assert all(path.exists() for path in listed)
    assert files == {path for path in listed if path.is_file()}
    for patch in kustomization.get("patches", []):
        name = patch["target"].get("name")
        assert name is None or name in {each["metadata"]["name"] for each in objects(patch["target"]["kind"])}


def settings_of(environment: dict[str, str]) -> Settings:
    given = {name.lower(): value for name, value in environment.items() if name not in OF_TEMPORAL}
    fields: dict[str, Any] = {name: DEFAULT.sub(r"\1", value) for name, value in given.items()}
    assert fields.keys() <= Settings.model_fields.keys()
    return Settings(**fields)


def test_every_variable_in_the_cluster_is_a_setting() -> None:
    """Nothing warns of a variable that no program reads."""
    (config,) = objects("ConfigMap")
    settings = settings_of(config["data"])
    assert not [name for name in config["data"] if isinstance(getattr(settings, name.lower(), ""), SecretStr)]


@pytest.mark.parametrize("service", ["worker", "webhooks", "codec", "starter"])
def test_every_variable_of_compose_is_a_setting(service: str) -> None:
    """The same for those who have Docker."""
    settings_of(COMPOSE["services"][service]["environment"])


def test_migrations_get_the_database_alone() -> None:
    """They run as the owner of the tables, and need no key of an external service."""
    (job,) = objects("Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "order-sagas-migrations"}}]
    assert list(COMPOSE["services"]["migrations"]["environment"]) == ["DATABASE_URL"]


def test_a_pod_gets_no_variables_that_it_was_not_given() -> None:
    """Kubernetes would make WEBHOOKS_PORT=tcp://… of a Service with that name."""
    assert [pod["enableServiceLinks"] for pod in PODS] == [False] * len(PODS)


@pytest.mark.parametrize(
    ("name", "drain"), [("worker", DRAIN.total_seconds()), ("webhooks", DRAIN_SECONDS), ("codec", DRAIN_SECONDS)]
)
def test_a_pod_has_the_time_to_drain(name: str, drain: float) -> None:
    """What is under way when the pod must go is finished, not killed."""
    pod = DEPLOYMENTS[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)

    assert pod["terminationGracePeriodSeconds"] > before + drain
    assert float(COMPOSE["services"][name]["stop_grace_period"].removesuffix("s")) > drain


def test_the_codec_server_gets_its_keys_alone() -> None:
    """Who breaks into it finds no key of the database or of Stripe."""
    (container,) = DEPLOYMENTS["codec"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [
        {"configMapRef": {"name": "order-sagas"}},
        {"secretRef": {"name": "order-sagas-codec"}},
    ]
    (address,) = container["env"]
    assert address["value"].endswith(f":{container['ports'][0]['containerPort']}")
    assert settings_of({address["name"]: address["value"]}).codec_address == address["value"]


@pytest.mark.parametrize("name", ["worker", "webhooks", "codec"])
def test_probes_ask_the_event_loop(name: str) -> None:
    """Liveness is patient, and every port that is named is the one that the settings open."""
    (container,) = DEPLOYMENTS[name]["spec"]["template"]["spec"]["containers"]
    (config,) = objects("ConfigMap")
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    probes = {kind: container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")}

    assert {kind: probe["httpGet"]["path"] for kind, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"health"}
    assert probes["liveness"]["periodSeconds"] * probes["liveness"]["failureThreshold"] >= SILENT_SECONDS
    assert ports["health"] == int(config["data"]["HEALTH_ADDRESS"].rpartition(":")[2])
    assert name == "codec" or ports.get("http", 8410) == int(config["data"]["WEBHOOKS_PORT"])


def test_prometheus_finds_what_the_settings_open() -> None:
    """Port, jobs and NetworkPolicy of the component fit each other, and the names that alerts know."""
    folder = KUBERNETES / "monitoring"
    config, ports = (yaml.safe_load(each["patch"]) for each in documents(folder / "kustomization.yaml")[0]["patches"])
    monitors = [each["spec"]["podMetricsEndpoints"] for each in documents(folder / "pod-monitors.yaml")]
    (policy,) = documents(folder / "network.yaml")
    jobs = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]

    assert config[0]["path"] == "/data/METRICS_ADDRESS"
    address = Settings(metrics_address=config[0]["value"]).metrics_address
    port = ports[0]["value"]
    assert address == f"0.0.0.0:{port['containerPort']}"
    assert policy["spec"]["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port["containerPort"]}]
    assert [endpoint["port"] for (endpoint,) in monitors] == [port["name"]] * len(jobs)
    named = [endpoint["relabelings"][0]["replacement"] for (endpoint,) in monitors]
    assert named == [each["job_name"] for each in jobs]


def test_the_autoscaler_watches_our_task_queues() -> None:
    """Another queue has no backlog, and the workers would never become more."""
    (scaled,) = documents(KUBERNETES / "keda" / "scaled-object.yaml")
    (of_build,) = documents(KUBERNETES / "worker-controller" / "template" / "scaled-object.yaml")
    for each in (scaled["spec"], of_build["spec"]["template"]["spec"]):
        assert [trigger["metadata"]["taskQueue"] for trigger in each["triggers"]] == [
            TASK_QUEUE,
            model_queue(TASK_QUEUE),
        ]
        assert each["minReplicaCount"] >= 2


def test_the_controller_leaves_routing_and_replicas_to_others() -> None:
    """`starter.py release` gives orders to a build, an autoscaler sets its replicas: two masters would disagree."""
    deployment, _ = documents(KUBERNETES / "worker-controller" / "template" / "worker-deployment.yaml")
    assert deployment["spec"]["rollout"] == {"strategy": "Manual"}
    assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize("file", ["deploy/compose.yaml", "docs/production.md"])
def test_the_search_attributes_are_registered(file: str) -> None:
    """The worker refuses to start without them."""
    found = re.findall(r"--name (\w+) --type (\w+)", (DEPLOY.parent / file).read_text())
    assert dict(found) == SEARCH_ATTRIBUTES


def test_the_secrets_that_a_pod_needs_are_documented() -> None:
    """A pod whose Secret is missing does not start, and says so only in its events."""
    sources = [source for pod in PODS for container in pod["containers"] for source in container["envFrom"]]
    named = {source["secretRef"]["name"] for source in sources if "secretRef" in source}
    created = re.findall(r"create secret generic (\S+)", (DEPLOY.parent / "docs" / "production.md").read_text())
    assert named == set(created)


def copied() -> set[str]:
    """What the image gets of the repository."""
    lines = [shlex.split(each) for each in (DEPLOY / "Containerfile").read_text().splitlines() if each[:5] == "COPY "]
    return {each.rstrip("/") for line in lines if not line[1].startswith("--") for each in line[1:-1]}


def test_the_build_sees_what_the_image_gets() -> None:
    """A file that is ignored cannot be copied, and one that is not copied needs not be sent to the builder."""
    lines = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in lines if line.startswith("!")} == copied()


def test_the_image_holds_every_program_that_is_started() -> None:
    """Manifests and compose start what the image has."""
    held = copied()
    args = [container["args"] for pod in PODS for container in pod["containers"]]
    started = [*args, *(each["command"] for each in (COMPOSE["services"][name] for name in ("webhooks", "migrations")))]
    for first, *rest in started:
        assert first in held or (first, rest) == ("-m", ["app.migrate"])


def started_by_compose() -> dict[str, list[str]]:
    """What python gets from each service of the image."""
    services = {name: each for name, each in COMPOSE["services"].items() if "order-sagas" in each["image"]}
    return {
        name: each.get("command") or each.get("entrypoint", ["python", "worker.py"])[1:]
        for name, each in services.items()
    }


@pytest.mark.prove
@pytest.mark.parametrize("service", started_by_compose())
async def test_what_compose_starts_imports_what_the_image_has(service: str) -> None:
    """The image installs requirements.txt alone: no package that only the local stack or a test installs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", AS_IN_THE_IMAGE, *started_by_compose()[service]),
        cwd=DEPLOY.parent,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def test_the_sandbox_of_compose_has_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image lacks jinja2: the page says so, or what is wrong with a form, and all else works."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    browser = {"Accept": "text/html"}
    async with serve() as sandbox, httpx.AsyncClient(base_url=sandbox.url, headers=browser, trust_env=False) as http:
        page = await http.get("/")
        refused = await http.post("/actions/break", data={"scenario": "none"})
        records = await http.get("/_sandbox/latest")
    assert (page.status_code, page.text) == (501, NO_JINJA2)
    assert (refused.status_code, refused.text.partition(".")[0]) == (409, "There is no scenario none")
    assert records.is_success
