"""What a coordinator gets that does not follow the protocol: it lies to real sites, in bytes, and hears what comes back.

Each attack says what was tried and what came back. A lie that a site should refuse is judged beside the honest message that
is due then; what lies tell is judged beside a policy, or a run, that lets it out.
"""
