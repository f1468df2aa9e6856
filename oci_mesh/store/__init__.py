"""Verified content on this node: one contract (`base`), two implementations (`memory`, `disk`)."""
