"""The training ground: recipes, data, losses, one loop, and the tables that say whether a weight is worth keeping."""
