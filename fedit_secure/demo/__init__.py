"""The one-command demo: its silos, its base model, its sizes."""
