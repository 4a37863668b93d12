"""Hostile peers of a live server, and what an honest client notices of them."""
