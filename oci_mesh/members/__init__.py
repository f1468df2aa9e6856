"""Who is in the mesh, and what all nodes know: pure merge functions, no IO, no own time."""
