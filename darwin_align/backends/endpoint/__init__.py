"""Policy and reward models behind URLs: httpx and tenacity."""

from darwin_align.backends.endpoint.client import Endpoint, Limits
from darwin_align.backends.endpoint.policy import EndpointPolicy

__all__ = ["Endpoint", "EndpointPolicy", "Limits"]
