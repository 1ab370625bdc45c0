"""The rules of the house, as functions from source to problems; tests/test_tidy.py runs them."""
