"""Who fetches which piece of a blob from whom: decisions only, no IO, no clock."""
