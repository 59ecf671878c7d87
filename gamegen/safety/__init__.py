"""What may not be asked for and not be shown: checks of words and pictures behind a small interface. No web."""
