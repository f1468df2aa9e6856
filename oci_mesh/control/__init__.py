"""How an operator speaks with a node: a Unix socket, and what is said over it."""
