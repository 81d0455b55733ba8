"""What tests of engines share."""

import pytest

from obliviate.inference.vllm import vllm_available

needs_vllm = pytest.mark.skipif(not vllm_available(gpu=False), reason="vLLM for CPUs is not installed")
