"""Tools, MCP, the agent loop, guardrails. May import every room up to memory.

Holds nothing yet: the room stands so that its place in the order of imports is fixed.
"""
