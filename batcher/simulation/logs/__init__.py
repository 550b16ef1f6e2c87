"""Recorded logs in virtual time: replay, and what-if runs under other settings."""
