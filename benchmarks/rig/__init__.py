"""A fleet of machines inside this one: shaped links, real programs, and what they took."""
