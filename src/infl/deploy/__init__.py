"""What runs between machines: a site's folder and policy, run files, attempts at a run, and what carries the messages."""
