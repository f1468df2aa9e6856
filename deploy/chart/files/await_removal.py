"""Wait until a DaemonSet is ready on all nodes: arguments API, NAMESPACE, NAME, SECONDS.

It runs in a Job of `helm uninstall`, with nothing but the standard library: a Job is what helm
waits for, and a DaemonSet is not. Exit 1, with the names of the nodes that are not done.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ACCOUNT = Path(os.environ.get("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount"))
PERIOD_S = 2
ANSWER_S = 10


def ask(url):
    """A document of the API."""
    token = (ACCOUNT / "token").read_text()
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    ca = ACCOUNT / "ca.crt"
    trust = ssl.create_default_context(cafile=ca) if url.startswith("https:") else None
    with urllib.request.urlopen(request, timeout=ANSWER_S, context=trust) as answer:
        return json.load(answer)


def is_ready(pod):
    """Whether `undo` has done its work there."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def missing(api, namespace, name):
    """How many nodes are not done, and which pods are known to be on such."""
    found = ask(f"{api}/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")
    status = found.get("status", {})
    if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
        return None, []  # nobody has looked at it yet
    count = status["desiredNumberScheduled"] - status.get("numberReady", 0)
    pods = ask(f"{api}/api/v1/namespaces/{namespace}/pods")["items"] if count else []
    ours = [
        pod
        for pod in pods
        if any(owner["uid"] == found["metadata"]["uid"] for owner in owners(pod))
    ]
    return count, [pod for pod in ours if not is_ready(pod)]


def owners(pod):
    """Who made it."""
    return pod["metadata"].get("ownerReferences", [])


def main(api, namespace, name, seconds):
    """Exit with 0 once all nodes are done."""
    deadline = time.monotonic() + float(seconds)
    count, waiting, trouble = None, [], ""
    while time.monotonic() < deadline:
        try:
            count, waiting = missing(api, namespace, name)
            trouble = ""
        except (OSError, ValueError) as error:  # a control plane may be away for a moment
            trouble = f" The API server does not answer: {error}."
        if count == 0:
            print("done on all nodes")
            return
        time.sleep(PERIOD_S)
    nodes = ", ".join(sorted(pod["spec"].get("nodeName", "(no node yet)") for pod in waiting))
    sys.exit(
        f"containerd still asks the mesh on {'some' if count is None else count} nodes: "
        f"{nodes or 'unknown which'}.{trouble} Nothing was uninstalled. Run helm uninstall again "
        "once they are back, or with --no-hooks; what is left on a node "
        "`oci-mesh containerd undo` removes there."
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
