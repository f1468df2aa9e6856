"""Images of the internal name: pushed as a pod would, pulled by containerd as a kubelet has it.

The containerds are real, with their CRI, and know whom to ask from what the init container wrote.
Beyond that nothing of them knows the name: it is in no hosts file of theirs.
"""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from oci_mesh.containerd.cri import Cri
from tests import images
from tests.deploy import rendered
from tests.deploy.machines import Node, cluster, limited
from tests.e2e import command, daemon
from tests.e2e.conftest import runnable
from tests.e2e.kubelet import PULL_SECONDS, Kubelet
from tests.e2e.requirements import require, require_namespaces

pytestmark = pytest.mark.e2e

INTERNAL = "internal-registry.kube-system.svc.cluster.local:5000"
IMAGE = f"{INTERNAL}/app:v1"

# A pod has the cluster's DNS, here a hosts file of its own.
_POD = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


def push(node: Node, archive: Path, hosts: Path) -> None:
    """Push as a pod on that machine does: by the name of the Service, which leads to any node."""
    program = str(node.machine.directory / "bin/oci-mesh")
    words = ["unshare", "--mount", "sh", "-c", _POD, "pod", str(hosts)]
    words += [program, "push", "--plain-http", str(archive), IMAGE]
    node.namespace.run(*words, env=daemon.ENVIRONMENT)


async def start_pod(socket: Path, policy: str) -> str:
    """What a kubelet does about the image before it starts a container; the image's id."""
    async with Cri(socket) as cri:
        held = await cri.image(IMAGE)
        if held is not None and policy == "IfNotPresent":
            return held.id
        return await cri.pull(IMAGE, PULL_SECONDS)


def archive(directory: Path, greeting: str) -> Path:
    """What `docker save` writes of an image."""
    path = directory / f"{greeting}.tar"
    layers = [*runnable(), {"greeting": greeting.encode()}]
    images.build_docker_archive(path, IMAGE, *layers, architecture=images.host_architecture())
    return path


def test_deployments_keep_their_image_names(tmp_path: Path) -> None:
    """`Always` sees a tag that moved, `IfNotPresent` stays with what it has, on every node."""
    require_namespaces()
    require("containerd", "ctr")
    objects = rendered.variant("complete", tmp_path)
    pod = rendered.find(objects, "DaemonSet", "oci-mesh")["spec"]["template"]["spec"]
    configure = rendered.container(pod, "configure")
    [service] = [o for o in objects if o["metadata"]["name"] == "internal-registry"]
    [port] = service["spec"]["ports"]
    assert (service["metadata"]["namespace"], port["port"]) == ("kube-system", 5000)
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster(tmp_path, pod, 2))
        hosts = tmp_path / "pod-hosts"
        hosts.write_text(f"{nodes[0].namespace.address} {INTERNAL.partition(':')[0]}\n")
        sockets = []
        for node in nodes:
            containerd = Kubelet(node.namespace, node.machine.directory)
            containerd.config = node.machine.host / "etc/containerd/config.toml"
            stack.enter_context(containerd)
            done = command.run(*limited(configure), *node.machine.words(configure))
            assert "restart containerd" in done.stdout.decode()
            containerd.start()
            sockets.append(containerd.socket)
        push(nodes[1], archive(tmp_path, "first"), hosts)
        before = [asyncio.run(start_pod(each, "Always")) for each in sockets]
        assert before[0] == before[1]
        push(nodes[0], archive(tmp_path, "second"), hosts)
        assert asyncio.run(start_pod(sockets[0], "IfNotPresent")) == before[0]
        after = [asyncio.run(start_pod(each, "Always")) for each in sockets]
        assert after[0] == after[1] != before[0]
        assert asyncio.run(start_pod(sockets[0], "IfNotPresent")) == after[0]
