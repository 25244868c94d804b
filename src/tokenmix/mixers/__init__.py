"""The mixers: a named system is a short composition of ops with its paper's defaults."""
