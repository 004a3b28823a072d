"""What several attacks share: their contract, the audit context, statistics, thieves and shadow models, a consortium to lie to."""
