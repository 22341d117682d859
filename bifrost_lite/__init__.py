"""bifrost-lite: a proxy for OpenWrt routers that you can watch."""

__version__ = "0.3.0"
