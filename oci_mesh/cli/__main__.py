"""`python -m oci_mesh.cli` is `oci-mesh`."""

from oci_mesh.cli import main

main(prog_name="oci-mesh")
