"""The command line, alone and against a node in this process."""
