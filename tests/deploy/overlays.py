"""A user's overlay, with what the base can be combined with."""

import os
from pathlib import Path
from typing import Final

KUBERNETES: Final = Path(__file__).parents[2] / "deploy" / "kubernetes"


def overlay_with_monitoring(folder: Path) -> Path:
    """An overlay in this folder, of keda and the component monitoring; its path."""
    keda, monitoring = (os.path.relpath(KUBERNETES / name, folder) for name in ("keda", "monitoring"))
    text = f"kind: Kustomization\nresources: [{keda}]\ncomponents: [{monitoring}]\n"
    (folder / "kustomization.yaml").write_text(f"apiVersion: kustomize.config.k8s.io/v1beta1\n{text}")
    return folder
