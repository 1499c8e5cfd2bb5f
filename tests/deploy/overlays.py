"""A user's overlay, with what the base can be combined with."""

import os
from pathlib import Path
from typing import Final

KUBERNETES: Final = Path(__file__).parents[2] / "deploy" / "kubernetes"


def an_overlay(folder: Path, resource: str, *components: str) -> Path:
    """An overlay in a new folder, of one folder of deploy/kubernetes with components; its path."""
    folder.mkdir()
    names = [os.path.relpath(KUBERNETES / name, folder) for name in (resource, *components)]
    text = f"kind: Kustomization\nresources: [{names[0]}]\ncomponents: [{', '.join(names[1:])}]\n"
    (folder / "kustomization.yaml").write_text(f"apiVersion: kustomize.config.k8s.io/v1beta1\n{text}")
    return folder
