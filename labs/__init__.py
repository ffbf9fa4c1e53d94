"""Exercises for a class: notebooks kept as text, their checks, and a grader."""
