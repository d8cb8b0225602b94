"""The pairwise judge: a strong model scores two answers to one question."""
