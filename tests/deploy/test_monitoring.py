"""The board and the alerts ask for metrics that a node has, by labels that these have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from oci_mesh.metrics import Metrics
from tests.deploy import rendered
from tests.deploy.rendered import CHART, module

pytestmark = pytest.mark.e2e

# What Prometheus, and the ServiceMonitor, add to all.
_ADDED = {"job", "node"}
_NAME = re.compile(r"\boci_mesh_[a-z_]+")
_VARIABLES = {"$__rate_interval": "5m", "$__range": "6h", "$job": "x"}


def known() -> dict[str, set[str]]:
    """The labels of all metrics, by the names under which a node shows them."""
    metrics = Metrics()
    made = {
        f"{counter._name}{'_total' if counter._type == 'counter' else ''}": set(counter._labelnames)
        for counter in vars(metrics).values()
        if hasattr(counter, "_labelnames")
    }
    families = text_string_to_metric_families(metrics.render().decode())
    shown = {family.name for family in families if not family.name.endswith("_created")}
    assert shown == {name.removesuffix("_total") for name in made}
    return made


def expressions() -> list[str]:
    """All PromQL of the board and of the rules."""
    board: Any = json.loads((CHART / "files/dashboard.json").read_text())
    [rules] = rendered.load((CHART / "files/rules.yaml").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    found += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(found) > 20
    for variable, value in _VARIABLES.items():
        found = [expression.replace(variable, value) for expression in found]
    return found


def test_every_metric_is_one_that_a_node_has() -> None:
    """A metric that is renamed takes its panels along."""
    for expression in expressions():
        assert set(_NAME.findall(expression)) <= known().keys(), expression
        assert _NAME.search(expression), expression


def test_every_label_is_one_that_the_metric_has() -> None:
    """Those that are selected by, and those that are grouped by."""
    for expression in expressions():
        has = _ADDED.union(*(known()[name] for name in _NAME.findall(expression)))
        selected = re.findall(r"[{,]\s*([a-z_]+)\s*=~?", expression)
        grouped = [
            name
            for names in re.findall(r"by \(([^)]*)\)", expression)
            for name in names.split(", ")
        ]
        assert {*selected, *grouped} <= has, expression


def test_every_metric_is_on_the_board() -> None:
    """What is counted, somebody sees."""
    asked = {name for expression in expressions() for name in _NAME.findall(expression)}
    assert known().keys() - asked <= {"oci_mesh_cache_evicted_blobs_total"}  # its bytes are there


def test_every_expression_is_promql() -> None:
    """As Prometheus' own grammar has it."""
    for expression in expressions():
        module("promql_parser").parse(expression)


def test_the_board_of_kustomize_is_that_of_the_chart() -> None:
    """kustomize reads no file beside its own."""
    own = rendered.KUSTOMIZE / "components/monitoring/oci-mesh.json"
    assert own.read_bytes() == Path(CHART / "files/dashboard.json").read_bytes()
