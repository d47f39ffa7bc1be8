"""Training data: public sources made into training files, a user's own files registered, checked and selected from."""
