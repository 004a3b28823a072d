"""What tasks that predict something of a record from a table of features share: one trunk, on which each has its own head."""
