"""`oci-mesh doctor`: what can be wrong with a node and what depends on it, each with its remedy."""
