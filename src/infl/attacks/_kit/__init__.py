"""What several attacks share: their contract, the evidence, statistics, thieves and shadow models, a consortium to lie to."""
