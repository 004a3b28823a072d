"""A task, an attack, an aggregation rule and a statistic for infl; all but the last are found by their entry points."""
