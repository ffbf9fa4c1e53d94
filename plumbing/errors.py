"""The one kind of error that is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the person at the keyboard can fix: one sentence with the remedy. Exit code 2."""
