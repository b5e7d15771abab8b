"""Lets `python -m diapir` do what `diapir` does."""

from diapir.cli import main

main()
