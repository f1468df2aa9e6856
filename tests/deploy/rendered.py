"""What the chart and the kustomize directories make, as objects; and what that needs."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

from tests.e2e import command
from tests.e2e.requirements import absent, require

DEPLOY: Final = Path(__file__).resolve().parents[2] / "deploy"
CHART: Final = DEPLOY / "chart"
KUSTOMIZE: Final = DEPLOY / "kustomize"

# What helm is told that the cluster is, where there is none: between the oldest and the newest.
KUBERNETES: Final = "1.34.0"

Object = dict[str, Any]

# Values by which every branch of the chart is taken, by name: (namespace, values).
VARIANTS: Final[dict[str, tuple[str, Object]]] = {
    "defaults": ("kube-system", {}),
    "complete": (
        "kube-system",
        {
            "internalRegistry": {"enabled": True},
            "serviceMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True},
        },
    ),
    "another namespace": (
        "mesh",
        {
            "internalRegistry": {"enabled": True, "type": "NodePort", "nodePort": 30500},
            "containerd": {"own": ["registry.internal"], "resolve": True},
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        },
    ),
    "the host's network": ("kube-system", {"hostNetwork": True, "registry": {"port": 5005}}),
    "a token": (
        "kube-system",
        {
            "tls": {"mode": "token", "secret": "oci-mesh-token"},
            "mesh": {"join": ["10.0.0.1:7946"]},
            "networkPolicy": {"meshFrom": [{"ipBlock": {"cidr": "10.0.0.0/24"}}]},
        },
    ),
    "no TLS": ("kube-system", {"tls": {"mode": "insecure"}, "networkPolicy": {"enabled": False}}),
    "undone": ("kube-system", {"containerd": {"hosts": "undo"}}),
    "left alone": ("kube-system", {"containerd": {"hosts": "leave"}}),
    "with a restart": ("kube-system", {"containerd": {"restart": True}}),
    "containerd's content": ("kube-system", {"containerd": {"content": "/var/lib/containerd"}}),
    "containerd's socket": (
        "kube-system",
        {"containerd": {"socket": "/run/containerd/containerd.sock"}},
    ),
    "all else": (
        "kube-system",
        {
            "image": {"tag": "v2", "pullSecrets": ["registry"]},
            "config": 'disk-limit = "100GB"\n',
            "configSecret": "upstreams",
            "podAnnotations": {"a": "b"},
            "seLinuxOptions": {"type": "spc_t"},
            "maxUnavailable": "10%",
        },
    ),
}


def module(name: str) -> Any:
    """A package that only the checks of deploy/ need: `pip install -e '.[deploy]'`."""
    try:
        return importlib.import_module(name)
    except ImportError:
        absent(f"not installed: {name} (pip install -e '.[deploy]')")


def load(text: str) -> list[Object]:
    """The objects of a YAML stream."""
    return [each for each in module("yaml").safe_load_all(text) if each]


def helm(namespace: str, values: Object, directory: Path) -> list[Object]:
    """What `helm install oci-mesh deploy/chart` would make, its hooks as well."""
    require("helm")
    path = directory / "values.json"
    path.write_text(json.dumps(values))
    options = ["--namespace", namespace, "--values", str(path), "--kube-version", KUBERNETES]
    made = command.run("helm", "template", "oci-mesh", CHART, *options)
    return load(made.stdout.decode())


def variant(name: str, directory: Path) -> list[Object]:
    """The chart with one of `VARIANTS`."""
    return helm(*VARIANTS[name], directory)


def kustomize(name: str) -> list[Object]:
    """What `kubectl apply -k deploy/kustomize/NAME` would send."""
    require("kustomize")
    return load(command.run("kustomize", "build", KUSTOMIZE / name).stdout.decode())


def find(objects: list[Object], kind: str, name: str) -> Object:
    """The one of that kind and name."""
    [found] = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def containers(pod: Object) -> list[Object]:
    """All of a pod's containers, the first to run first."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def container(pod: Object, name: str) -> Object:
    """The one of that name."""
    [found] = [each for each in containers(pod) if each["name"] == name]
    return found


def pods(objects: list[Object]) -> list[Object]:
    """The pods that the objects start."""
    return [o["spec"]["template"]["spec"] for o in objects if "template" in o.get("spec", {})]


def definitions() -> dict[str, Object]:
    """The schemas of the Prometheus operator's kinds: `.ci/deploy` puts them beside its tools."""
    require("kustomize")
    directory = Path(shutil.which("kustomize") or "").parent / "crds"
    paths = sorted(directory.glob("*.yaml"))
    if not paths:
        absent(f"no definitions of ServiceMonitor and PrometheusRule in {directory}: .ci/deploy")
    found = [each for path in paths for each in load(path.read_text())]
    return {
        each["spec"]["names"]["kind"]: each["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        for each in found
    }
