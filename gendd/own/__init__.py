"""A family for the user's own networks and batches, which `gendd.distill` takes as Python objects."""
