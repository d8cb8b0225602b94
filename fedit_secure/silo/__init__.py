"""One silo: admit, reserve, tune, aggregate, apply. Start with daemon.py."""
