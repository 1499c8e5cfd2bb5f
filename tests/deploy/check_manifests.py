"""make check-manifests: the image's recipe, the manifests and the compose file, as linters and schemas see them.

It needs no cluster and no container tools: all of it comes from requirements-manifests.txt. Where kubectl is installed
it renders the overlays as well.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.deploy.overlays import KUBERNETES, an_overlay

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
BASE: Final = KUBERNETES / "base"
CODEC: Final = KUBERNETES / "codec"
BIN: Final = ROOT / ".venv-manifests" / "bin"
VERSIONS: Final = (
    "1.32",
    "1.37",
)  # of Kubernetes: the oldest that we support, and the newest


def main() -> int:
    found = sorted(path for folder in (BASE, CODEC) for path in folder.glob("*.yaml"))
    files = [str(path) for path in found if path.name != "kustomization.yaml"]
    files.append(str(KUBERNETES / "monitoring" / "network.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        rendered = _rendered(Path(folder))
        checks = [
            ("hadolint", str(DEPLOY / "Containerfile")),
            ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")),
            *(
                ("checkov", "--config-file", str(DEPLOY / "kubernetes" / "checkov.yaml"), "--directory", str(folder))
                for folder in (BASE, CODEC)
            ),
            *(("kubernetes-validate", "--strict", "--quiet", "-k", each, *files, *rendered) for each in VERSIONS),
        ]
        failed = [check[0] for check in checks if not _passes(check)]
    sys.stdout.write(f"{len(checks) - len(failed)} passed, {len(failed)} failed\n")
    return 1 if failed else 0


def _rendered(folder: Path) -> list[str]:
    """What kustomize makes of the base. Of the others, whose kinds have no schema here, only that they render."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        sys.stdout.write("rendering is skipped: it needs kubectl\n")
        return []
    for name in ("base", "keda", "worker-controller"):
        for components in ((), ("monitoring", "codec")):
            path = an_overlay(folder / f"{name}-with-{len(components)}", name, *components)
            output = subprocess.check_output((kubectl, "kustomize", str(path)), cwd=ROOT)  # noqa: S603 (our own files)
            (folder / f"{path.name}.yaml").write_bytes(output)
    return [str(folder / "base-with-0.yaml")]


def _passes(command: Sequence[str]) -> bool:
    sys.stdout.write(f"{command[0]} …\n")
    sys.stdout.flush()
    return subprocess.run((str(BIN / command[0]), *command[1:]), cwd=ROOT, check=False).returncode == 0  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
