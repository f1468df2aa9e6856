"""What the OCI documents say, as pure functions and frozen values: no IO, no clock, no state."""
