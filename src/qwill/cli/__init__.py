"""One verb, one thin function. May import everything."""
