"""Codecs: bytes in, values out, and back. No socket, no clock, no file."""
