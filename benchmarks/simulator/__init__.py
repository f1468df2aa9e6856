"""A network in virtual time, and the shipped scheduler in it: thousands of nodes on one core.

    clock       the heap of events
    network     uplinks, downlinks, latency: what a transfer costs, and what the model leaves out
    scenario    who takes part, how fast, when, and what goes wrong
    outcome     what came of a run, against the bound
    mesh        `oci_mesh.swarm`, as the asyncio driver would drive it
    origin      a registry outside of the mesh, for cold pulls
    central     one registry for all; scp in turn
    bittorrent  rarest first among some fifty neighbours, tit for tat
    plot        the run as a picture

Nothing here reads a clock or asks the system for chance: the same arguments give the same bytes.
"""
