"""Between nodes: who is there (gossip), what they have (source), copies of pushes (replication).

This is the IO around the pure `members/`; which node to ask for which part of a blob will be
`swarm/`'s to decide, behind the same `Source`.
"""
