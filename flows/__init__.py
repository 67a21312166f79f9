"""Flows: what happens at night, for one scan, and at the command line."""
