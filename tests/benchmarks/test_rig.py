"""The arithmetic of the fleet benchmark: bounds, quantities, verdicts, and what it prints."""

import json
import math
import os
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.rig import (
    bounds,
    cold,
    holdings,
    hop,
    plot,
    quantities,
    scenarios,
    table,
    topology,
)
from benchmarks.rig.bounds import GOODPUT, Link
from benchmarks.rig.image import EXPANSION, SHARES, Image, built
from benchmarks.rig.meter import Readings, is_full
from benchmarks.rig.race import Course
from benchmarks.rig.run import Run
from benchmarks.rig.runners import Outcome
from tests.e2e.upstream import Request, direct, parse_log

MBIT = 1_000_000
EVEN = Link(8 * MBIT, 8 * MBIT)  # 1 MB/s of frames
SIZE = 10_000_000
FULL_LINK_S = SIZE / (1_000_000 * GOODPUT)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """A small one."""
    return built(tmp_path_factory.mktemp("cache"), 2_000_000)


def course(image: Image, nodes: int, directory: Path) -> Course:
    """Even links."""
    return Course(image, [EVEN] * (nodes + 1), "peer", directory, 0.0)


def run(seconds: Sequence[float], *, full: bool = False, problem: str = "") -> Run:
    """One with two machines and two samples."""
    outcomes = [Outcome(100.0, [100.0 + each], problem) for each in seconds]
    readings = Readings(
        seconds=20.0,
        cores_full=full,
        sent=[SIZE, SIZE // 2],
        received=[0, SIZE],
        sample_s=[100.0, 110.0],
        progress=[[0] * (len(seconds) + 1), [SIZE] * (len(seconds) + 1)],
        uploads=[[0] * (len(seconds) + 1), [SIZE // 2] * (len(seconds) + 1)],
    )
    numbers = range(1, len(seconds) + 1)
    return Run("oci-mesh", "together", "peer", SIZE, 10.0, outcomes, readings, 0.0, numbers)


@pytest.mark.parametrize(
    ("text", "value"), [("100mbit", 100 * MBIT), ("1.5gbit", 1500 * MBIT), ("200 Mbit", 200 * MBIT)]
)
def test_rates(text: str, value: int) -> None:
    """In bits, as tc has them."""
    assert quantities.rate(text) == value


@pytest.mark.parametrize(("text", "value"), [("300MB", 300 * MBIT), ("1KiB", 1024)])
def test_sizes(text: str, value: int) -> None:
    """In bytes."""
    assert quantities.size(text) == value


@pytest.mark.parametrize("text", ["", "100", "mbit", "-1mbit", "0mbit", "100MB"])
def test_what_is_no_rate(text: str) -> None:
    """A size is none either."""
    with pytest.raises(ValueError, match="expected"):
        quantities.rate(text)


def test_with_even_links_the_source_sets_the_bound() -> None:
    """Whatever the number of nodes."""
    for nodes in (1, 8, 100):
        assert bounds.everyone(SIZE, EVEN, [EVEN] * nodes) == pytest.approx(FULL_LINK_S)


def test_a_thin_source_a_thin_node_and_too_few_uplinks() -> None:
    """Each term of the bound in its turn."""
    thin = Link(4 * MBIT, 8 * MBIT)
    assert bounds.everyone(SIZE, thin, [EVEN] * 4) == pytest.approx(2 * FULL_LINK_S)
    last = Link(8 * MBIT, 2 * MBIT)
    assert bounds.everyone(SIZE, EVEN, [EVEN, last]) == pytest.approx(4 * FULL_LINK_S)
    mute = Link(8, 8 * MBIT)
    assert bounds.everyone(SIZE, EVEN, [mute] * 3) == pytest.approx(3 * FULL_LINK_S, rel=1e-5)


def test_who_starts_late_is_not_bound_by_the_source() -> None:
    """Only by what is left of its sending, and by the own link."""
    thin = Link(4 * MBIT, 8 * MBIT)
    assert bounds.one(SIZE, thin, EVEN) == pytest.approx(2 * FULL_LINK_S)
    assert bounds.one(SIZE, thin, EVEN, 5.0) == pytest.approx(2 * FULL_LINK_S - 5.0)
    assert bounds.one(SIZE, thin, EVEN, 3 * FULL_LINK_S) == pytest.approx(FULL_LINK_S)


def test_buckets_hold_a_whole_packet() -> None:
    """10 ms, and never less than what the kernel sends at once."""
    assert topology.burst(1000 * MBIT) == 1_250_000
    assert topology.burst(10 * MBIT) == 128 * 1024


def test_full_cores() -> None:
    """By the mean, or by many full seconds."""
    assert is_full(0.86, [0.86] * 10)
    assert is_full(0.5, [0.95] * 3 + [0.3] * 7)
    assert not is_full(0.5, [0.95] * 2 + [0.4] * 8)
    assert not is_full(0.0, [])


def test_the_image_is_as_asked_for(image: Image) -> None:
    """Size, expansion, layers, the same bytes again; and both forms are of the same content."""
    assert image.size == pytest.approx(2_000_000, rel=0.1)
    assert image.archive.stat().st_size / image.size == pytest.approx(EXPANSION, rel=0.1)
    assert len(image.descriptors()) == 1 + len(SHARES)
    assert len({blob["digest"] for blob in image.descriptors()}) == 1 + len(SHARES)


def test_the_image_is_built_once_and_alike(image: Image, tmp_path: Path) -> None:
    """From the cache, or anew."""
    again = built(image.directory.parent, 2_000_000)
    assert again.directory == image.directory
    assert built(tmp_path, 2_000_000).descriptors() == image.descriptors()


def test_plans(image: Image, tmp_path: Path) -> None:
    """Who pulls, who does not count, and by what each is judged."""
    ten = course(image, 10, tmp_path)
    spread = scenarios.plan("spread", ten, 0)
    assert spread.offsets_s[0] == 0
    assert spread.offsets_s[-1] == pytest.approx(ten.bound_s / 2)
    late = scenarios.plan("late", ten, 0)
    assert (list(late.pulled_before), list(late.pulling)) == (list(range(1, 11)), [11])
    assert len(late.course.links) == 12
    slow = scenarios.plan("slow", ten, 2)
    assert [link.up for link in slow.course.links[-3:]] == [EVEN.up, EVEN.up // 10, EVEN.up // 10]
    assert slow.bound_s > ten.bound_s
    assert len(set(scenarios.plan("liars", ten, 0).liars)) == 3
    assert list(scenarios.plan("kills", ten, 0).killed) == [9, 10]
    with pytest.raises(ValueError, match="three nodes"):
        scenarios.plan("kills", course(image, 2, tmp_path), 0)


def test_ratios() -> None:
    """The last node counts; with bounds of their own, the worst of them; a failure is no number."""
    plain = run([11.0, 12.0])
    assert plain.ratio == pytest.approx(1.2)
    assert (plain.source_copies, plain.max_upload) == (1.0, 0.5)
    own = run([11.0, 12.0])
    own.own_bounds_s = [5.0, 12.0]
    assert own.ratio == pytest.approx(2.2)
    failed = run([11.0], problem="cut")
    assert math.isnan(failed.ratio)
    assert json.loads(json.dumps(failed.document()))["ratio_to_bound"] is None


def test_a_ratio_of_full_cores_is_bracketed() -> None:
    """And said to be no result."""
    shown = table.show([run([12.0]), run([13.0], full=True)])
    assert " 1.20 " in shown
    assert "[1.30]" in shown
    assert "no result" in shown


def test_the_picture_is_one(tmp_path: Path) -> None:
    """Valid XML: of the source and of each node what comes in and goes out, a bar per run that
    ended.
    """
    path = tmp_path / "plot.svg"
    plot.save(path, "a < b", [run([12.0, 13.0]), run([20.0]), run([1.0], problem="cut")])
    elements = [element.tag.rpartition("}")[2] for element in ET.parse(path).iter()]
    assert elements.count("polygon") == 2 * (1 + 2)
    assert elements.count("rect") == 1 + 2


@pytest.mark.parametrize(
    ("found", "whole"),
    [
        ([(0, 10)], True),
        ([(5, 12), (0, 5)], True),
        ([(0, 6), (4, 10)], True),
        ([(0, 4), (5, 10)], False),
        ([(1, 10)], False),
        ([(0, 9)], False),
        ([], False),
    ],
)
def test_what_covers_a_blob(found: list[tuple[int, int]], whole: bool) -> None:
    """No hole, whoever has which part."""
    assert holdings.covers(found, 10) is whole


def test_holes_in_files_are_seen(tmp_path: Path) -> None:
    """Two nodes have half of a blob each."""
    digest, page, size = "ab" * 32, 1024 * 1024, 2 * 1024 * 1024
    blob = {"digest": f"sha256:{digest}", "size": size}
    roots = [tmp_path / "n1", tmp_path / "n2"]
    for place, root in enumerate(roots):
        root.mkdir()
        with (root / f"0123.sha256.{digest}").open("wb") as file:
            file.truncate(size)
            os.pwrite(file.fileno(), b"x" * page, place * page)
    assert not holdings.is_complete(roots[:1], [blob])
    assert holdings.is_complete(roots, [blob])


# As docker-registry 2.8 wrote it.
LOG = """\
time="2026-11-23T16:53:39Z" level=error msg="response completed with error" http.request.uri=/v2/
10.79.0.2 - - [23/Nov/2026:16:53:39 +0000] "HEAD /v2/app/manifests/v1 HTTP/1.1" 401 146 "" "containerd/1.6.20~ds1"
10.79.0.2 - - [23/Nov/2026:16:53:39 +0000] "GET /v2/app/blobs/sha256:aa HTTP/1.1" 206 700 "" "oci-mesh"
10.79.0.3 - puller [23/Nov/2026:16:53:40 +0000] "GET /v2/app/blobs/sha256:aa HTTP/1.1" 200 1000 "" "containerd/2.1.9"
"""  # noqa: E501


def test_what_left_the_upstream_is_read_from_its_log() -> None:
    """Bytes of blobs, by who got them; answers without content count for nothing."""
    requests = parse_log(LOG)
    assert [request.status for request in requests] == [401, 206, 200]
    assert requests[0] == Request(
        "10.79.0.2", "HEAD", "/v2/app/manifests/v1", 401, 146, "containerd/1.6.20~ds1"
    )
    assert direct(requests) == {"10.79.0.2": 700, "10.79.0.3": 1000}


def test_verdicts_of_cold_pulls() -> None:
    """By what was asked for; nothing is said of a failed run, and not of time with full cores."""
    good, direct_run = run([11.0]), run([80.0])
    copies, last = cold.verdict(good, direct_run)
    assert copies.startswith("images that left the upstream: 1.000, at most 1.05: yes")
    assert last.startswith("last node / T*: 1.100, at most 1.15: yes")
    assert ": NO;" in cold.verdict(run([12.0]), direct_run)[1]
    assert "no result" in cold.verdict(run([12.0], full=True), direct_run)[1]
    assert cold.verdict(run([12.0], problem="cut"), direct_run) == []
    [alone] = cold.verdict_alone([run([10.0]), run([10.4]), run([12.0])], [run([10.0])] * 3)
    assert alone.startswith("lone node / direct pull: 1.040, at most 1.05: yes (1.000..1.200)")


def test_the_floor_of_the_hop_is_a_server() -> None:
    """HEAD without a body, GET with it, on one connection."""
    with hop.floor(b"manifest") as address:
        connection = HTTPConnection(address, timeout=hop.TIMEOUT_S)
        assert hop.asker(connection, "HEAD", "/a")() == b""
        assert hop.asker(connection, "GET", "/a")() == b"manifest"
        connection.close()
    assert hop.summary([1.0] * 98 + [5.0, 9.0])["p50"] == 1.0
