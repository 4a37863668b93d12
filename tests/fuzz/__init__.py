"""Hostile input for every layer: ``python -m tests.fuzz`` measures, ``test_fuzz.py`` runs a little of the same."""
