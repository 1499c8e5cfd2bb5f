"""The alerts as an object of the Prometheus operator, as JSON on standard output, for `kubectl apply -f -`.

A Prometheus that selects its rules by a label: `… | kubectl label --local -f - release=… -o json | kubectl apply -f -`.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

ALERTS: Final = Path(__file__).with_name("alerts.yaml")


def prometheus_rule() -> dict[str, Any]:
    """A PrometheusRule with the groups of alerts.yaml."""
    labels = {"app.kubernetes.io/name": "order-sagas"}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "order-sagas", "labels": labels},
        "spec": yaml.safe_load(ALERTS.read_text()),
    }


if __name__ == "__main__":
    json.dump(prometheus_rule(), sys.stdout, indent=2)
    sys.stdout.write("\n")
