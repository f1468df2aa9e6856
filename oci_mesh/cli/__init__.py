"""`oci-mesh`: the command line. What each verb does is in its module; here is how they are called.

Exit codes: 0 done, 1 it failed, 2 it was called wrongly, 3 a part of it is done and running it
again does the rest. Results go to standard output, all else to standard error.
"""

from typing import Final

import click
from click.shell_completion import add_completion_class

from oci_mesh.cli.bash import LineComplete
from oci_mesh.cli.sections import SectionedGroup
from oci_mesh.version import __version__

_SECTIONS: Final = {
    "Content": {
        "push": "commands:push_command",
        "pull": "commands:pull_command",
        "tags": "commands:tags_command",
        "inspect": "commands:inspect_command",
        "copy": "commands:copy_command",
        "rm": "commands:rm_command",
        "sync": "sync:sync_command",
    },
    "The mesh": {
        "status": "status:status_command",
        "explain": "explain:explain_command",
        "ca": "authority:ca_group",
        "token": "authority:token_group",
    },
    "This machine": {
        "doctor": "doctor.command:doctor_command",
        "node": "node:node_group",
        "containerd": "containerd:containerd_group",
        "completion": "completion:completion_command",
    },
}


@click.group(
    cls=SectionedGroup,
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="oci-mesh")
def main() -> None:
    """Container images on all nodes of a mesh, and in any other OCI registry; no docker needed.

    REF is [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]; without a host it is about the node on this
    machine.

    \b
    Examples:
      docker save app:v1 | oci-mesh push - app:v1
      oci-mesh copy docker.io/library/alpine:3.22 alpine:3.22
      oci-mesh pull app:v1 - --format docker-archive | docker load
      oci-mesh containerd configure --dry-run

    Results go to standard output, all else to standard error; with --json results are JSON. Exit
    codes: 0 done, 1 it failed, 2 it was called wrongly, 3 a part of it is done (some nodes are
    down) and running it again does the rest. NO_COLOR=1 turns colours off.
    """


add_completion_class(LineComplete)
