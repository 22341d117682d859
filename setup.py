"""How bifrost-lite is packaged; tool settings are in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / "bifrost_lite" / "__init__.py").read_text("utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE)
assert VERSION, "bifrost_lite/__init__.py names no version"

setup(
    name="bifrost-lite",
    version=VERSION[1],
    description="A proxy for OpenWrt routers that you can watch",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    install_requires=[
        "websockets>=15",
        "msgspec",
        'tomli; python_version < "3.11"',
    ],
    # Naming the root keeps `pip install -e` to a plain .pth file. The import hook that setuptools
    # makes otherwise brings pathlib and urllib into the daemon, which count their memory.
    package_dir={"": "."},
    packages=find_packages(include=["bifrost_lite", "bifrost_lite.*"]),
    package_data={"bifrost_lite": ["web/*.html", "web/*.css", "web/*.js"]},
    entry_points={"console_scripts": ["bifrost-lite = bifrost_lite.__main__:main"]},
)
