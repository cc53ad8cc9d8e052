"""Rows across papers: what one paper's method does to another's detector."""
