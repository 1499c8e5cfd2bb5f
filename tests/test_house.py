"""The project as a whole: what is defined is registered, what can be set is documented, what docs name exists."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from temporalio.testing import WorkflowEnvironment

from app.wiring import activities_of
from config.settings import Settings, sandbox_addresses
from gateways.openai import openai_client
from gateways.postgres import Database
from gateways.stripe import stripe_client
from orders import metrics
from orders.models import CancelReason, ErrorCode, NotificationKind, RefundReason
from sandbox.world import SERVICES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def defined_activities() -> set[str]:
    """By the text of the modules: the worker recognizes activities by an attribute that the SDK may rename."""
    sources = [path.read_text() for path in (ROOT / "activities").glob("*.py")]
    return {name for text in sources for name in re.findall(r"@activity\.defn\n    async def (\w+)", text)}


async def test_every_activity_is_registered(database_url: str, temporal: WorkflowEnvironment) -> None:
    """An activity that a workflow calls and no worker has would be retried for ever."""
    async with (
        asyncpg.create_pool(database_url, min_size=0) as pool,
        httpx.AsyncClient() as http,
    ):
        stripe = stripe_client(http, "sk_test", "http://127.0.0.1")
        openai = openai_client(http, "sk-test", "http://127.0.0.1")
        registered = [
            method.__name__
            for method in activities_of(Settings(), temporal.client, Database(pool), "", http, stripe, openai)
        ]
    assert sorted(registered) == sorted(defined_activities())


@pytest.mark.prove
@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        ("webhooks", {"workflows", "activities", "openai", "sandbox", "deploy", "typer", "opentelemetry"}),
        (
            "starter",
            {"workflows", "activities", "openai", "stripe", "httpx", "sandbox", "deploy", "starlette", "opentelemetry"}
            | {"cryptography"},
        ),
        (
            "codec_server",
            {"workflows", "activities", "openai", "stripe", "client", "sandbox", "deploy", "opentelemetry"},
        ),
        (
            "client.orders, client.resolutions, client.runs",
            {"workflows", "activities", "openai", "stripe", "httpx", "asyncpg", "structlog"},
        ),
        ("worker", {"client", "sandbox", "deploy", "starlette", "typer", "opentelemetry"}),
    ],
)
def test_a_program_loads_only_what_it_needs(program: str, unwanted: set[str]) -> None:
    """Import contracts see our own imports; this sees also what libraries load."""
    code = f"import {program}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    loaded = set(subprocess.check_output(command, cwd=ROOT, text=True).split())  # noqa: S603 (our own code)
    assert program.partition(".")[0] in loaded
    assert not loaded & unwanted


def settings_rows() -> list[str]:
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        rows.append(f"| `{name.upper()}` | {f'`{shown}`' if shown else ''} | {field.description} |")
    return rows


@pytest.mark.parametrize("row", settings_rows(), ids=lambda row: row.split("`")[1])
def test_every_setting_is_documented(row: str) -> None:
    """docs/settings.md has its name, its default and its meaning, as the code has them."""
    assert row in (ROOT / "docs" / "settings.md").read_text().splitlines()


def metric_rows() -> list[str]:
    rows = []
    for metric in metrics.ALL:
        kind = type(metric).__name__.lower()
        name = f"{metric.name}_total" if kind == "counter" else metric.name
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{name}` | {kind} | {labels} | {metric.meaning} |")
    return rows


def test_every_metric_is_documented() -> None:
    """docs/operating.md has the name, type, labels and meaning of each, as the code has them, and no others."""
    lines = (ROOT / "docs" / "operating.md").read_text().splitlines()
    assert [line for line in lines if line.startswith("| `order_sagas_")] == metric_rows()


def test_every_metric_is_recorded_with_its_labels() -> None:
    """A label more would be a metric of its own, and one that nothing records is a promise."""
    declared = {name: set(each.labels) for name, each in vars(metrics).items() if isinstance(each, metrics.Metric)}
    recorded: dict[str, list[set[str | None]]] = {}
    for room in ("workflows", "gateways", "app"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Call(func=ast.Attribute(value=ast.Name(id=name)), keywords=given) if name in declared:
                        recorded.setdefault(name, []).append({each.arg for each in given})
    assert recorded.keys() == declared.keys()
    for name, calls in recorded.items():
        assert all(labels == declared[name] for labels in calls), name


def test_the_sandbox_has_every_external_service() -> None:
    """The default address of each is the path of a service in the sandbox."""
    paths = {urlsplit(address).path for address in sandbox_addresses("http://127.0.0.1:1").values()}
    assert {path.split("/")[1] for path in paths} == SERVICES.keys()


def test_every_code_that_callers_get_is_documented() -> None:
    """docs/calling-it.md has every `errorCode` of process-order and every `reason` of cancel-order and refund-order."""
    documented = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "calling-it.md").read_text()))
    assert {*ErrorCode, *CancelReason, *RefundReason} <= documented


def test_every_message_is_documented() -> None:
    """docs/messages.md has the name of each e-mail and event."""
    documented = set(re.findall(r"[`\"](\w+)[`\"]", (ROOT / "docs" / "messages.md").read_text()))
    assert set(NotificationKind) <= documented


def test_the_commands_of_the_readme_exist() -> None:
    """A command that README.md names is in the Makefile."""
    promised = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    existing = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert promised <= existing
    assert {"demo", "test"} <= promised


def test_the_failure_table_names_tests_that_exist() -> None:
    """Every test that docs/failures.md names is there."""
    named = set(re.findall(r"`(test_[a-z_]+)`", (ROOT / "docs" / "failures.md").read_text()))
    assert named
    assert named <= {path.stem for folder in ("tests", "saga") for path in (ROOT / folder).rglob("test_*.py")}


def test_the_data_model_has_every_table_and_transition() -> None:
    """docs/data-model.md has a row for each table, and an arrow for each transition that the schema allows."""
    schema = "".join(path.read_text() for path in sorted((ROOT / "migrations").glob("*.sql")))
    page = (ROOT / "docs" / "data-model.md").read_text()
    tables = set(re.findall(r"CREATE TABLE (\w+)", schema))
    allowed = set(
        re.findall(r"\('(\w+)', '(\w+)'\)", schema.partition("INSERT INTO order_transitions")[2].partition(";")[0])
    )
    arrows = {
        (start.replace("[*]", "absent"), end) for start, end in re.findall(r"^    (\S+) --> (\w+)", page, re.MULTILINE)
    }
    assert tables <= set(re.findall(r"`(\w+)`", page))
    assert arrows == allowed
