"""Differential privacy: the plan, its noise, its accounting, its ledger."""
