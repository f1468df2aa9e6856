"""`oci-mesh`: the command line. What each verb does is in its module; here is how they are called.

Exit codes: 0 done, 1 it failed, 2 it was called wrongly. Results go to standard output, all else
to standard error.
"""

import click

from oci_mesh import __version__
from oci_mesh.cli.authority import ca_group, token_group
from oci_mesh.cli.commands import pull_command, push_command
from oci_mesh.cli.containerd import containerd_group
from oci_mesh.cli.run import ReportingGroup


@click.group(cls=ReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="oci-mesh")
def main() -> None:
    """Move container images between files and the oci_mesh node on this machine, or any other
    OCI registry, no docker needed; let nodes into a mesh, and have containerd ask it.

    \b
    Examples:
      docker save app:v1 | oci-mesh push - app:v1
      oci-mesh push layout/ 10.0.0.7:5000/team/app:v1 --plain-http
      oci-mesh pull app:v1 app.tar
      oci-mesh pull app:v1 - --format docker-archive | docker load
      oci-mesh ca init /etc/oci-mesh/ca
      oci-mesh token create --ca /etc/oci-mesh/ca
      oci-mesh containerd configure --dry-run
    """


main.add_command(push_command)
main.add_command(pull_command)
main.add_command(ca_group)
main.add_command(token_group)
main.add_command(containerd_group)
