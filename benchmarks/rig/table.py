"""Runs as a table for people."""

from collections.abc import Sequence

from benchmarks.rig.run import Run

_HEADER = (
    "", "client", "scenario", "last node", "bound", "ratio", "source copies", "max upload",
    "first..last s", "CPU", "s > 90 %", "foreign", "steal", "CPU s/node", "MiB/node",
)  # fmt: skip


def show(runs: Sequence[Run]) -> str:
    """The table, and notes under it."""
    rows = [_HEADER, *(_cells(run) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *(note for run in runs for note in _notes(run))])


def _cells(run: Run) -> tuple[str, ...]:
    readings = run.readings
    ratio = "failed" if run.problems else f"{run.ratio:.2f}"
    nodes_cpu_s = run.cpu_s[1:]
    return (
        run.name,
        run.client,
        run.scenario,
        f"{run.last_s:.2f} s",
        f"{run.bound_s:.2f} s",
        f"[{ratio}]" if readings.cores_full else ratio,
        f"{run.source_copies:.2f}",
        f"{run.max_upload:.2f}",
        f"{min(run.seconds, default=0):.1f}..{max(run.seconds, default=0):.1f}",
        _percent(readings.cpu_share),
        f"{readings.seconds_over_90} of {readings.seconds:.0f}",
        _percent(readings.foreign_cpu_share),
        _percent(readings.steal_share),
        f"{sum(nodes_cpu_s) / len(nodes_cpu_s):.1f}" if nodes_cpu_s else "",
        f"{max(run.peak_rss_bytes) / 2**20:.0f}" if run.peak_rss_bytes else "",
    )


def _notes(run: Run) -> list[str]:
    notes = [f"{run.name}: {problem}" for problem in run.problems]
    if run.readings.cores_full:
        notes.append(f"{run.name}: [..] the cores were full: no result")
    if "import_share" in run.more:
        notes.append(f"{run.name}: {_percent(run.more['import_share'])} of the time is the import")
    if any(run.more.get("retries", [])):
        notes.append(f"{run.name}: blobs asked for again, by node: {run.more['retries']}")
    told = [
        key
        for key in ("killed", "liars", "wrongly_accused", "rtt_ms", "latency_ms")
        if key in run.more
    ]
    return notes + [f"{run.name}: {key} {run.more[key]}" for key in told]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
