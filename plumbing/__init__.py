"""What every script needs and no paper is about: stopping, the output directory, pictures."""
