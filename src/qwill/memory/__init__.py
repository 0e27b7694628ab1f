"""What a user or an agent is remembered by: store, recall, consolidation, forgetting. May import every room up to hub.

Holds nothing yet: the room stands so that its place in the order of imports is fixed.
"""
