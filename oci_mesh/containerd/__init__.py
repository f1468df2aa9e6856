"""What this node's containerd has: read in place, offered to the mesh, and the proof of a right."""
