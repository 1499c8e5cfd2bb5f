"""The alerts agree with the code and the docs; make check-monitoring lets a real Prometheus judge them."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from deploy.local.monitoring import FILES, INSTALL, missing_programs
from deploy.local.stack import Ports, Stack
from orders.metrics import ALL, Counter, Histogram

ROOT: Final = Path(__file__).parents[2]
RULES: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
TESTS: Final = yaml.safe_load(Path(__file__).with_name("alerts_test.yaml").read_text())["tests"]
SUFFIXES: Final = ("_bucket", "_count", "_sum")


def exported_names() -> set[str]:
    """Of our metrics, as Prometheus gets them."""
    names = {f"{each.name}_total" if isinstance(each, Counter) else each.name for each in ALL}
    return names | {each.name + suffix for each in ALL if isinstance(each, Histogram) for suffix in SUFFIXES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_its_section(rule: dict[str, Any]) -> None:
    """docs/operating.md says what it means, what to look at and what to do, under the heading that the alert names."""
    page = (ROOT / "docs" / "operating.md").read_text()
    name = rule["alert"]
    section = page.partition(f"\n### {name}\n")[2].partition("\n#")[0]
    assert re.findall(r"^- \*\*(\w+):\*\*", section, re.MULTILINE) == ["Means", "Look", "Do"]
    assert rule["annotations"]["runbook"] == f"docs/operating.md#{name.lower()}"
    assert rule["labels"]["severity"] in {"page", "warning"}


def test_no_section_is_about_an_alert_that_is_gone() -> None:
    """Every heading of the alerts has its alert."""
    alerts = (ROOT / "docs" / "operating.md").read_text().partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (\w+)$", alerts, re.MULTILINE) == [rule["alert"] for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_is_tested(rule: dict[str, Any]) -> None:
    """It fires in one case, and is silent in another."""
    expected = {
        sample["value"]
        for test in TESTS
        for case in test["promql_expr_test"]
        if f'"{rule["alert"]}"' in case["expr"]
        for sample in case["exp_samples"]
    }
    assert expected == {0, 1}


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Then `make observe` shows the metrics alone, and says what to install."""
    installed = {"prometheus"}
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in installed else None)
    assert missing_programs() == "alertmanager"
    places = Stack(tmp_path).monitoring.places(missing_programs())
    assert places[-1] == ("Prometheus", f"not started, this machine lacks alertmanager: {INSTALL}")
    installed.add("prometheus-alertmanager")
    assert missing_programs() == ""


def test_the_files_get_the_addresses_of_a_stack(tmp_path: Path) -> None:
    """Else one stack would watch another one."""
    ports = Ports(sandbox=5, worker_metrics=1, webhooks_metrics=2, alertmanager=3)
    replace(Stack(tmp_path, ports).monitoring, data_dir=tmp_path, seconds=7).write_files()
    prometheus = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    alertmanager = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
    scraped = [each["static_configs"][0]["targets"] for each in prometheus["scrape_configs"]]
    assert scraped == [["127.0.0.1:1"], ["127.0.0.1:2"]]
    assert prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["127.0.0.1:3"]
    assert set(prometheus["global"].values()) == {"7s"}
    assert alertmanager["global"]["slack_api_url"] == "http://127.0.0.1:5/slack/webhook"
    assert (tmp_path / "alerts.yaml").read_text() == (FILES / "alerts.yaml").read_text()


def test_alerts_and_their_tests_name_metrics_that_exist() -> None:
    """A metric that was renamed would make its alert silent for ever."""
    texts = [rule["expr"] for rule in RULES] + [each["series"] for test in TESTS for each in test["input_series"]]
    named = {name for text in texts for name in re.findall(r"\border_sagas_\w+", text)}
    assert named
    assert named <= exported_names()
