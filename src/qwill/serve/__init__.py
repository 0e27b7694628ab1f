"""OpenAI-compatible server, web page, edge and cloud, feedback. May import every room up to agent.

Holds nothing yet: the room stands so that its place in the order of imports is fixed.
"""
