"""make check-kubernetes: a real API server takes the manifests, and refuses what it must refuse.

    CRDS=FOLDER     the CustomResourceDefinitions of KEDA, the Prometheus operator and the worker controller, if the
                    server does not have them

It asks the server that kubectl reaches, in a namespace that it makes and deletes. Without one it starts a
kube-apiserver with etcd, if they are installed. Every request but the namespace is a dry run.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from deploy.local.process import free_ports
from deploy.monitoring.prometheus_rule import prometheus_rule
from tests.deploy.overlays import an_overlay

NAMESPACE: Final = "order-sagas-check"
OF_KEDA: Final = ("crd/scaledobjects.keda.sh",)
OF_THE_CONTROLLER: Final = (
    "crd/workerdeployments.temporal.io",
    "crd/connections.temporal.io",
    "crd/workerresourcetemplates.temporal.io",
)
OF_THE_OPERATOR: Final = ("crd/podmonitors.monitoring.coreos.com", "crd/prometheusrules.monitoring.coreos.com")
START_SECONDS: Final = 90

NAMESPACE_OBJECT: Final = f"""
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


class Server:
    """An API server, as kubectl reaches it."""

    def __init__(self, *flags: str) -> None:
        self._flags = flags

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ("kubectl", *self._flags, "--request-timeout=30s", *arguments)
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)  # noqa: S603

    def dry_run(self, manifests: str) -> subprocess.CompletedProcess[str]:
        """What the server would do; it refuses fields that it does not know."""
        flags = ("--server-side", "--dry-run=server", "--validate=strict", "-n", NAMESPACE, "-f", "-")
        return self.run("apply", *flags, stdin=manifests)

    def answers(self) -> bool:
        return self.run("get", "--raw", "/readyz").returncode == 0


def main() -> int:
    if not shutil.which("kubectl"):
        return _skipped("it needs kubectl")
    with ExitStack() as stack:
        server = Server()
        if not server.answers():
            if missing := [name for name in ("kube-apiserver", "etcd", "openssl") if not shutil.which(name)]:
                return _skipped(f"kubectl reaches no server, and to start one it needs {', '.join(missing)}")
            server = stack.enter_context(_local_server())
        stack.enter_context(_namespace(server))
        return _check(server)


def _skipped(reason: str) -> int:
    sys.stdout.write(f"make check-kubernetes is skipped: {reason}\n")
    return 0


def _check(server: Server) -> int:
    with tempfile.TemporaryDirectory() as folder:
        render = partial(_rendered, server, Path(folder))
        base = render("base")
        checks = [
            ("the base is taken", _is_taken(server, base)),
            ("a misspelled field is refused", "replicsa" in server.dry_run(_changed(base, _misspell)).stderr),
            ("a pod as root is refused", "violates PodSecurity" in server.dry_run(_root_pod(base)).stderr),
        ]
        if crds := os.environ.get("CRDS"):
            server.run("apply", "--server-side", "-f", crds)
            for each in (*OF_KEDA, *OF_THE_CONTROLLER, *OF_THE_OPERATOR):
                server.run("wait", "--for=condition=Established", "--timeout=30s", each)
        has_operator = _has(server, *OF_THE_OPERATOR)
        if has_operator:
            checks.append(("the alerts are taken", _is_taken(server, json.dumps(prometheus_rule()))))
        components = ("codec", "monitoring") if has_operator else ("codec",)
        overlays = {"keda": _has(server, *OF_KEDA), "worker-controller": _has(server, *OF_THE_CONTROLLER)}
        for name in ("base", *(name for name, can_be_asked in overlays.items() if can_be_asked)):
            what = f"{name} with {' and '.join(components)} is taken"
            checks.append((what, _is_taken(server, render(name, *components))))
    for what, holds in checks:
        sys.stdout.write(f"{'ok' if holds else 'FAILED'}: {what}\n")
    return 0 if all(holds for _, holds in checks) else 1


def _rendered(server: Server, folder: Path, resource: str, *components: str) -> str:
    """What kustomize makes of a user's overlay."""
    overlay = an_overlay(folder / "-".join((resource, *components)), resource, *components)
    done = server.run("kustomize", str(overlay))
    if done.returncode:
        raise SystemExit(f"make check-kubernetes: {done.stderr.strip()}")
    return done.stdout


def _has(server: Server, *definitions: str) -> bool:
    lacks = [each for each in definitions if server.run("get", each).returncode]
    for each in lacks:
        sys.stdout.write(
            f"what needs {each} is skipped: the server lacks it; name the folder of the CRDs with CRDS=…\n"
        )
    return not lacks


def _is_taken(server: Server, manifests: str) -> bool:
    """Taken, and without a warning: a pod that is not restricted enough is only warned of in a Deployment."""
    answer = server.dry_run(manifests)
    sys.stdout.write(answer.stderr)
    return answer.returncode == 0 and not answer.stderr


def _changed(manifests: str, change: Any) -> str:
    documents = list(yaml.safe_load_all(manifests))
    for each in documents:
        if each["kind"] == "Deployment":
            change(each["spec"])
    return yaml.safe_dump_all(documents)


def _misspell(spec: dict[str, Any]) -> None:
    spec["replicsa"] = spec.pop("replicas")


def _root_pod(manifests: str) -> str:
    """A pod of the worker's template, but as root."""
    worker = next(each for each in yaml.safe_load_all(manifests) if each["kind"] == "Deployment")
    spec = worker["spec"]["template"]["spec"]
    spec["securityContext"] |= {"runAsUser": 0, "runAsNonRoot": False}
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}, "spec": spec})


@contextmanager
def _namespace(server: Server) -> Iterator[None]:
    made = server.run("create", "-f", "-", stdin=NAMESPACE_OBJECT)
    if made.returncode:
        raise SystemExit(f"make check-kubernetes: the namespace {NAMESPACE} cannot be made: {made.stderr.strip()}")
    try:
        yield
    finally:
        server.run("delete", "namespace", NAMESPACE, "--wait=false")


@contextmanager
def _local_server() -> Iterator[Server]:
    """A kube-apiserver with etcd on free ports of this machine, and an administrator's token."""
    clients, peers, secure = free_ports(3)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        key, tokens = place / "key.pem", place / "tokens.csv"
        subprocess.run(("openssl", "genrsa", "-out", str(key), "2048"), check=True, capture_output=True)  # noqa: S603, S607
        tokens.write_text("administrator,administrator,1,system:masters\n")
        etcd = f"http://127.0.0.1:{clients}"
        urls = (f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}")
        peer = f"--listen-peer-urls=http://127.0.0.1:{peers}"
        stack.enter_context(_running(place / "etcd.log", "etcd", f"--data-dir={place / 'etcd'}", *urls, peer))
        stack.enter_context(
            _running(
                place / "kube-apiserver.log",
                "kube-apiserver",
                *(f"--etcd-servers={etcd}", f"--cert-dir={place}", f"--secure-port={secure}"),
                *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"),
                *("--service-account-issuer=https://kubernetes.invalid", "--authorization-mode=RBAC"),
                *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
                *(f"--token-auth-file={tokens}", "--disable-admission-plugins=ServiceAccount"),
            )
        )
        address = f"--server=https://127.0.0.1:{secure}"
        server = Server(
            address, "--token=administrator", "--insecure-skip-tls-verify", f"--cache-dir={place / 'cache'}"
        )
        _wait_for(server, place / "kube-apiserver.log")
        yield server


def _wait_for(server: Server, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not server.answers():
        if time.monotonic() > end:
            raise SystemExit(f"make check-kubernetes: kube-apiserver does not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.5)


@contextmanager
def _running(log: Path, *command: str) -> Iterator[None]:
    with log.open("w") as output, subprocess.Popen(_in_path(command), stdout=output, stderr=output) as process:  # noqa: S603
        try:
            yield
        finally:
            process.terminate()


def _in_path(command: Sequence[str]) -> tuple[str, ...]:
    return (shutil.which(command[0]) or command[0], *command[1:])


if __name__ == "__main__":
    sys.exit(main())
