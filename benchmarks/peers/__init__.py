"""What users would pick instead, each with the same function; ``install.py`` gives each an environment of its own."""
