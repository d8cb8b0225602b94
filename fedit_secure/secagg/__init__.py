"""Secure aggregation: the trusted core. Start with protocol.py."""
