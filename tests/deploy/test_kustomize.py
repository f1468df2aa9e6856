"""Chart and kustomize are two ways to write the same objects."""

import re
from pathlib import Path

import pytest

from tests.deploy import rendered
from tests.deploy.rendered import Object

pytestmark = pytest.mark.e2e

# What helm adds to be able to find its objects again, and the two ways to start pods anew when
# their configuration changed.
_LABELS = ("app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart")
_HASH = re.compile(r"^oci-mesh-[a-z0-9]{10}$")


def plain(found: Object) -> Object:
    """An object without these."""
    found["metadata"]["labels"] = {
        key: value
        for key, value in found["metadata"].get("labels", {}).items()
        if key not in _LABELS
    }
    annotations = found["metadata"].pop("annotations", {})
    assert all(key.startswith("helm.sh/hook") for key in annotations)
    if found["kind"] == "ConfigMap" and _HASH.match(found["metadata"]["name"]):
        found["metadata"]["name"] = "oci-mesh"
    if found["kind"] == "DaemonSet":
        template = found["spec"]["template"]
        template["metadata"].get("annotations", {}).pop("checksum/config", None)
        if not template["metadata"].get("annotations"):
            template["metadata"].pop("annotations", None)
        for each in template["spec"]["initContainers"]:  # nothing there refers to what is above it
            each.get("env", []).sort(key=lambda variable: str(variable["name"]))
        for volume in template["spec"]["volumes"]:
            if _HASH.match(volume.get("configMap", {}).get("name", "")):
                volume["configMap"]["name"] = "oci-mesh"
    return found


def keyed(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """By kind and name."""
    made = [plain(found) for found in objects]
    return {(found["kind"], found["metadata"]["name"]): found for found in made}


def is_hook(found: Object) -> bool:
    """Whether helm makes it only to uninstall."""
    return "helm.sh/hook" in found["metadata"].get("annotations", {})


@pytest.mark.parametrize(("variant", "name"), [("defaults", "base"), ("complete", "complete")])
def test_both_make_the_same(variant: str, name: str, tmp_path: Path) -> None:
    """Object for object, field for field."""
    objects = [o for o in rendered.variant(variant, tmp_path) if not is_hook(o)]
    chart, plain_yaml = keyed(objects), keyed(rendered.kustomize(name))
    assert chart.keys() == plain_yaml.keys()
    for key, found in chart.items():
        assert plain_yaml[key] == found


def test_both_remove_the_same_way(tmp_path: Path) -> None:
    """By the same DaemonSet; only helm needs somebody to wait for it."""
    hooks = [o for o in rendered.variant("defaults", tmp_path) if is_hook(o)]
    chart, plain_yaml = keyed(hooks), keyed(rendered.kustomize("removal"))
    key = ("DaemonSet", "oci-mesh-removal")
    assert plain_yaml == {key: chart[key]}
