"""How the reward adapter of the real small pair is made: ``python -m training.small``."""
