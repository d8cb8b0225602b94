"""Local tuning: instruction records in, one noised adapter update out."""
