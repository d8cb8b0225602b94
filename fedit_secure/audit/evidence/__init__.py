"""What an aggregator or a silo has for an auditor, as one signed file."""
