"""What an auditor runs, without trust in us: see docs/auditor.md."""
