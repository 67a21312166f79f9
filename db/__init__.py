"""Rows: the schema, the ledger that reads and writes it, the public SQL views."""
