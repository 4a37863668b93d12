"""Is every law kept by a test? ``python -m tests.mutants`` breaks the package on purpose, one place at a time, and looks whether a test notices."""
