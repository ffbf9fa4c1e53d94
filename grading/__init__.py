"""Grading: read an answer in a text, and compare two."""
