"""What a model has learned: generation, answer extraction, metrics and the scoreboard."""
