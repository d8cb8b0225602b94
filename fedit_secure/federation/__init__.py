"""What the parties agree on: charter, identities, policies and the update rule."""
