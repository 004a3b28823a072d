"""A task, an attack and an aggregation rule for infl, found by their entry points."""
