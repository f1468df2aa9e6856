"""HTTP in, from clients: the distribution API over a store and a source."""
