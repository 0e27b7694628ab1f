"""One file a version, in order: v0001.py, v0002.py, …"""
