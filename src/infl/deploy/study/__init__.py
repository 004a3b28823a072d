"""A study between machines: an ordered list of functions that every site runs, as data, from its file to its working objects."""
