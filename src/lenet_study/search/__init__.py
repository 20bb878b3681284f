"""Beyond the five variants, with Optuna."""
