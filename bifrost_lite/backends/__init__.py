"""Ways out: one file for each type of backend."""
