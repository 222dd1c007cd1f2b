"""Makes the embedded pair from nothing: ``python -m training`` (or ``make pair``)."""
