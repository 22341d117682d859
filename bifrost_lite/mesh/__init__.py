"""Mesh networks: who is in them, and under which addresses. Pure: the clock is an argument."""
