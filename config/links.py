"""Addresses in Temporal's Web UI; `ui` is its base, see TEMPORAL_UI_URL."""


def workflow_link(ui: str, namespace: str, workflow_id: str, run_id: str | None = None) -> str:
    """The page of a workflow id, or of one run of it."""
    path = f"{ui.rstrip('/')}/namespaces/{namespace}/workflows/{workflow_id}"
    return f"{path}/{run_id}/history" if run_id else path


def schedule_link(ui: str, namespace: str, name: str) -> str:
    """The page of a Schedule."""
    return f"{ui.rstrip('/')}/namespaces/{namespace}/schedules/{name}"
