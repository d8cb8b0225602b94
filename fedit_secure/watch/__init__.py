"""How a daemon shows where it stands: status file, metrics and a read-only page."""
