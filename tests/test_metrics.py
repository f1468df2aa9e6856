"""Counters as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from oci_mesh.metrics import CONTENT_TYPE, Metrics


def test_what_is_counted_is_rendered_for_prometheus() -> None:
    """Every metric has a name of ours and a text; labels are escaped."""
    metrics = Metrics()
    metrics.peer_sent.labels('a"\n').inc(7)
    metrics.members.set(3)
    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}
    assert all(name.startswith("oci_mesh_") and f.documentation for name, f in families.items())
    sample = families["oci_mesh_peer_sent_bytes"].samples[0]
    assert (sample.name, sample.labels, sample.value) == (
        "oci_mesh_peer_sent_bytes_total",
        {"peer": 'a"\n'},
        7.0,
    )
    assert families["oci_mesh_members"].samples[0].value == 3.0
    assert CONTENT_TYPE.startswith("text/plain")


def test_the_same_labels_are_one_series() -> None:
    """However often they are counted, and whatever else has them."""
    metrics = Metrics()
    for size in (5, 7):
        metrics.count(metrics.peer_sent, "n1", amount=size)
        metrics.count(metrics.peer_received, "n1", amount=1)
    metrics.count(metrics.peer_sent, "n2")
    text = metrics.render().decode()
    assert 'oci_mesh_peer_sent_bytes_total{peer="n1"} 12.0' in text
    assert 'oci_mesh_peer_sent_bytes_total{peer="n2"} 1.0' in text
    assert 'oci_mesh_peer_received_bytes_total{peer="n1"} 2.0' in text


def test_each_node_counts_for_itself() -> None:
    """Several may live in one process."""
    one, other = Metrics(), Metrics()
    one.client_sent.inc(5)
    assert b"oci_mesh_client_sent_bytes_total 0.0" in other.render()


def test_clients_cannot_make_up_time_series() -> None:
    """A thousand invented methods are one label."""
    metrics = Metrics()
    for number in range(1000):
        metrics.count_request("client", "unknown", f"METHOD{number}", 405)
    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}
    counted = [s for s in families["oci_mesh_requests"].samples if s.name.endswith("_total")]
    assert [(s.labels["method"], s.value) for s in counted] == [("other", 1000.0)]
