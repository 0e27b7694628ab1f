"""Numbered migrations of the state database (state.py runs them); one that was released is never changed."""
