"""The aggregator: sees sums only. Start with service.py."""
