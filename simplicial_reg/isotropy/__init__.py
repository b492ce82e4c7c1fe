"""Measures of isotropy."""
