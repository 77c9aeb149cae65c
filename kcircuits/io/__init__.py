"""The only reader and writer of files, model weights apart."""
