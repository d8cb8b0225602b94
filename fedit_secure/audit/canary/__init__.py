"""The canary audit: production code run on canaries, and seen from outside."""
