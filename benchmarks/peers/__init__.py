"""Other recognisers, each run by its own script in its own environment."""
