"""What the final adapter gives back of a silo's own records: tried, and kept, in the silo."""
