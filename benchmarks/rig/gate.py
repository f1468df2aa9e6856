"""The start of a race, seen from a runner: get ready, say so, wait for the time, go, say when done.

`python -m benchmarks.rig.gate STEPS` runs commands (JSON: a list of argument lists) one after the
other; what they print goes to standard error. The monotonic clock is the machine's, so times of
different processes compare.
"""

import json
import subprocess
import sys
import time
from typing import Any


def await_start() -> float:
    """Say that all is ready; return at the time that is then given, which is returned."""
    print("ready", flush=True)
    line = sys.stdin.readline()
    if not line:
        sys.exit("never started")
    start_s = float(line)
    time.sleep(max(0.0, start_s - time.monotonic()))
    return start_s


def say_done(ends_s: list[float], problem: str = "", **more: Any) -> None:
    """The outcome: the times at which each step ended, and what went wrong, if anything did."""
    print(json.dumps({"ends_s": ends_s, "problem": problem, **more}), flush=True)


def main() -> None:
    """Run the steps."""
    steps = json.loads(sys.argv[1])
    await_start()
    ends_s = []
    for step in steps:
        argv = ["setpriv", "--pdeathsig", "KILL", *step]  # it ends when the runner is killed
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
        ends_s.append(time.monotonic())
        if done.returncode != 0:
            say_done(ends_s, f"exit {done.returncode}: {' '.join(step)}")
            return
    say_done(ends_s)


if __name__ == "__main__":
    main()
