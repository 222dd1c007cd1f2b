"""Finds the packages; all else is in pyproject.toml. ``integrations`` ships as a part of the library, without tests."""

from setuptools import find_packages, setup

HOSTS = "darwin_align.integrations"

setup(
    packages=[
        *find_packages(include=["darwin_align", "darwin_align.*"]),
        HOSTS,
        *(f"{HOSTS}.{host}" for host in find_packages("integrations", exclude=["*.tests", "*.tests.*"])),
    ]
)
