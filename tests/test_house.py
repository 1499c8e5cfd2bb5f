"""The house in order: what is defined is registered, what can be set is documented, what is promised exists."""

import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import asyncpg
import httpx
import pytest
from pydantic import SecretStr
from temporalio import activity
from temporalio.testing import WorkflowEnvironment

import activities
from app.wiring import activities_of
from config.settings import Settings
from gateways.openai import openai_client
from gateways.postgres import Database
from gateways.stripe import stripe_client

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def defined_activities() -> set[str]:
    modules = [import_module(f"activities.{module.name}") for module in pkgutil.iter_modules(activities.__path__)]
    return {
        name
        for module in modules
        for _, cls in inspect.getmembers(module, inspect.isclass)
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if hasattr(method, "__temporal_activity_definition")
    }


async def test_every_activity_is_registered(database_url: str, temporal: WorkflowEnvironment) -> None:
    """An activity that a workflow calls and no worker knows would be retried for ever."""
    async with (
        asyncpg.create_pool(database_url, min_size=0) as pool,
        httpx.AsyncClient() as http,
    ):
        stripe = stripe_client(http, "sk_test", "http://127.0.0.1")
        openai = openai_client(http, "sk-test", "http://127.0.0.1")
        registered = activities_of(Settings(), temporal.client, Database(pool), http, stripe, openai)
    assert {method.__name__ for method in registered} == defined_activities()
    assert activity  # the decorator that marks them


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


def test_the_commands_of_the_readme_exist() -> None:
    """Whoever types what README.md says gets what it says."""
    promised = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    existing = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert promised <= existing
    assert {"demo", "test"} <= promised


def test_the_failure_table_names_tests_that_exist() -> None:
    """A row of docs/failures.md is a promise that somebody keeps."""
    named = set(re.findall(r"`(test_[a-z_]+)`", (ROOT / "docs" / "failures.md").read_text()))
    assert named
    assert named <= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
