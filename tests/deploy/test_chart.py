"""The chart renders, and what it renders an API server would take and a cluster's rules allow."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import oci_mesh
from tests.deploy import rendered
from tests.deploy.rendered import CHART, VARIANTS, Object, module
from tests.e2e import command
from tests.e2e.requirements import require

pytestmark = pytest.mark.e2e

# The oldest that the chart says it is for, and the newest whose schemas are there.
VERSIONS = ("1.25", "1.37")

_ROW = re.compile(r"^\| `([A-Za-z.]+)` \| (.+?) \| (.+) \|$", re.M)


def strict(schema: Any) -> Any:
    """A schema that takes no field which it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if isinstance(made.get("pattern"), str) and "(?i)" in made["pattern"]:
        del made["pattern"]  # in Go's grammar, which Python's is not
    if "properties" in made and "x-kubernetes-preserve-unknown-fields" not in made:
        made.setdefault("additionalProperties", False)
    return made


def check(found: Object) -> None:
    """Raise unless an API server would take this object."""
    _check(json.dumps(found, sort_keys=True))


@functools.cache  # most objects are the same in most variants, and their schemas are large
def _check(text: str) -> None:
    found = json.loads(text)
    if found["apiVersion"].startswith("monitoring.coreos.com/"):
        schema = strict(rendered.definitions()[found["kind"]])
        schema["properties"].update(metadata={}, apiVersion={}, kind={})
        module("jsonschema").validate(found, schema)
        return
    for version in VERSIONS:
        module("kubernetes_validate").validate(found, version, strict=True)


def leaves(values: Object, above: str = "") -> Iterator[tuple[str, Any]]:
    """What can be set, by name, with its default."""
    for key, value in values.items():
        if isinstance(value, dict) and value and f"{above}{key}" not in _FREE:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


# Tables that Kubernetes knows, not the chart.
_FREE = ("resources", "nodeSelector", "dashboard.labels")


def test_helm_has_nothing_to_say_against_it() -> None:
    """`helm lint --strict`."""
    require("helm")
    command.run("helm", "lint", "--strict", "--kube-version", rendered.KUBERNETES, CHART)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_object_is_valid(name: str, tmp_path: Path) -> None:
    """In the oldest and in the newest Kubernetes, with no field that they do not know."""
    for found in rendered.variant(name, tmp_path):
        check(found)


@pytest.mark.parametrize("name", ["base", "complete", "removal"])
def test_every_object_of_kustomize_is_valid(name: str) -> None:
    """Likewise."""
    for found in rendered.kustomize(name):
        check(found)


@pytest.mark.parametrize("kind", ["DaemonSet", "ServiceMonitor"])
def test_a_misspelt_field_is_seen(kind: str, tmp_path: Path) -> None:
    """The two tests above can fail, in a core kind as in an operator's."""
    found = next(o for o in rendered.variant("complete", tmp_path) if o["kind"] == kind)
    check(found)
    found["spec"]["selectr"] = {}
    with pytest.raises(module("jsonschema").ValidationError):
        check(found)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_belongs_together_fits(name: str, tmp_path: Path) -> None:
    """Selectors, mounts and ports, which no schema compares."""
    objects = rendered.variant(name, tmp_path)
    nodes = rendered.find(objects, "DaemonSet", "oci-mesh")["spec"]["template"]
    ports = {port["name"] for each in nodes["spec"]["containers"] for port in each["ports"]}
    for found in objects:
        spec = found.get("spec", {})
        if found["kind"] in ("DaemonSet",):
            labels = spec["template"]["metadata"]["labels"]
            assert spec["selector"]["matchLabels"].items() <= labels.items()
        if found["kind"] == "Service" and "selector" in spec:
            assert spec["selector"].items() <= nodes["metadata"]["labels"].items()
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        if found["kind"] == "NetworkPolicy":
            labels = nodes["metadata"]["labels"]
            assert spec["podSelector"]["matchLabels"].items() <= labels.items()
            assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} <= ports
    for pod in rendered.pods(objects):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        mounts = [m for each in rendered.containers(pod) for m in each.get("volumeMounts", [])]
        assert {mount["name"] for mount in mounts} == volumes
    made = {(found["kind"], found["metadata"]["name"]) for found in objects}
    assert len(made) == len(objects)


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_has_more_than_it_needs(name: str, tmp_path: Path) -> None:
    """No container writes its root, gains privileges, or has capabilities but those named here."""
    allowed = {
        "data": {"CHOWN", "DAC_READ_SEARCH", "FOWNER"},
        "node": {"DAC_READ_SEARCH"} if name == "containerd's content" else set(),
    }
    as_root = {"data", "configure", "undo"}
    if name in ("containerd's content", "containerd's socket"):
        as_root.add("node")
    for pod in rendered.pods(rendered.variant(name, tmp_path)):
        security = pod["securityContext"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.get("hostPID")
        assert not pod.get("hostIPC")
        for each in rendered.containers(pod):
            own = each["securityContext"]
            assert each["resources"]["limits"]["memory"]
            if (name, each["name"]) == ("with a restart", "configure"):
                assert own.pop("privileged") is True
                continue
            assert "privileged" not in own
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"]["drop"] == ["ALL"]
            assert set(own["capabilities"].get("add", ())) == allowed.get(each["name"], set())
            user = own.get("runAsUser", security["runAsUser"])
            assert (user == 0) == (each["name"] in as_root), each["name"]
            assert own.get("runAsNonRoot", security["runAsNonRoot"]) == (user != 0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hostNetwork": True, "internalRegistry": {"enabled": True}}, "push by `kubectl exec`"),
        ({"hostNetwork": True, "serviceMonitor": {"enabled": True}}, "would find nothing"),
        ({"internalRegistry": {"nodePort": 30500}}, "needs internalRegistry.type NodePort"),
        ({"containerd": {"restart": True, "hosts": "leave"}}, "is for containerd.hosts"),
        ({"containerd": {"hosts": "remove"}}, "must be one of 'configure', 'undo', 'leave'"),
        ({"containerd": {"mirrors": ["docker.io; reboot"]}}, "/containerd/mirrors/0"),
        ({"data": {"paths": "/x"}}, "additional properties 'paths' not allowed"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: Object, said: str, tmp_path: Path) -> None:
    """With what is wrong about them."""
    with pytest.raises(AssertionError) as refused:
        rendered.helm("kube-system", values, tmp_path)
    assert said in str(refused.value)


def test_every_value_is_in_the_table() -> None:
    """The README's table has each with its default and a reason, and none that is not there."""
    values = dict(leaves(rendered.load((CHART / "values.yaml").read_text())[0]))
    table = {name: (default, why) for name, default, why in _ROW.findall(_readme())}
    assert table.keys() == values.keys()
    for name, (default, why) in table.items():
        assert len(why) > 20, name
        if default.startswith("`"):
            assert rendered.load(default.strip("`"))[:1] == [values[name]] or (
                not values[name] and default in ('`""`', "`[]`", "`{}`", "`null`", "`false`")
            ), name


def test_it_is_of_this_version() -> None:
    """A chart that is installed brings the image of its own version; so does kustomize."""
    chart = rendered.load((CHART / "Chart.yaml").read_text())[0]
    assert chart["appVersion"] == chart["version"] == oci_mesh.__version__
    for name in ("base", "removal"):
        [daemons] = [o for o in rendered.kustomize(name) if o["kind"] == "DaemonSet"]
        for each in rendered.containers(daemons["spec"]["template"]["spec"]):
            assert each["image"] == f"localhost/oci-mesh:{oci_mesh.__version__}"


def test_the_schema_of_the_values_is_complete() -> None:
    """All that can be set is described, so that a misspelt value is refused wherever it is."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    for name, _ in leaves(rendered.load((CHART / "values.yaml").read_text())[0]):
        described = schema
        for part in name.split("."):
            assert described["additionalProperties"] is False, name
            described = described["properties"][part]


def _readme() -> str:
    return (CHART / "README.md").read_text()
