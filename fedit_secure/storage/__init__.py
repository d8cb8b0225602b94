"""Durable state: the journal, adapters, and masked uploads on their way."""
