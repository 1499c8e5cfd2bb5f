"""make check-image: build the image on a base made here, then test it in a network of its own.

    BASE=…    the base image, instead of one that mmdebstrap makes from Debian's packages

The network holds the container and the services that the tests start, and nothing else.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
NEEDED: Final = ("buildah", "podman", "unshare", "ip")
PACKAGES: Final = "buildah podman mmdebstrap crun util-linux iproute2"
BASE: Final = "localhost/order-sagas-base"
IMAGE: Final = "localhost/order-sagas:check"
PAUSE: Final = 'FROM {}\nENTRYPOINT ["sleep", "600"]\n'  # what holds the network of a pod; podman would fetch one

# A build trusts the CAs that this machine trusts, which matters behind a proxy that inspects.
FLAGS: Final = "--isolation chroot --network host --volume /etc/ssl/certs:/etc/ssl/certs:ro"

# crun refuses version 2 of cgroups beside version 1, so the tests do not see it.
ALONE: Final = 'ip link set lo up; umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'


def main() -> int:
    base = os.environ.get("BASE", "")
    if reason := _hindrance(NEEDED if base else (*NEEDED, "mmdebstrap")):
        sys.stdout.write(f"make check-image is skipped: {reason}\n")
        return 0
    base = base or _new_base()
    _run(("make", "image", f"BASE={base}", f"IMAGE={IMAGE}", f"IMAGE_FLAGS={FLAGS}"))
    _run(("buildah", "build", "--isolation=chroot", "--quiet", f"--tag={IMAGE}-pause", "-f", "-"), PAUSE.format(base))
    tests = (sys.executable, "-m", "pytest", "-q", "tests/deploy/test_image.py")
    alone = ("unshare", "--net", "--mount", "sh", "-c", ALONE, "sh", *tests)
    return subprocess.run(alone, cwd=ROOT, env={**os.environ, "IMAGE": IMAGE}, check=False).returncode  # noqa: S603


def _hindrance(programs: Sequence[str]) -> str:
    if missing := [name for name in programs if not shutil.which(name)]:
        return f"it needs {', '.join(missing)}: on Debian, apt-get install {PACKAGES}"
    return "" if os.geteuid() == 0 else "it makes a network of its own, so it needs root"


def _new_base() -> str:
    with tempfile.TemporaryDirectory() as folder:
        archive = f"{folder}/base.tar"
        packages = "--include=python3,python3-venv,ca-certificates"
        _run(("mmdebstrap", "--quiet", "--variant=minbase", packages, "trixie", archive))
        _run(("podman", "import", "--quiet", archive, BASE))
    return BASE


def _run(command: Sequence[str], stdin: str | None = None) -> None:
    subprocess.run(command, cwd=ROOT, check=True, input=stdin, text=True)  # noqa: S603 (our own commands)


if __name__ == "__main__":
    sys.exit(main())
