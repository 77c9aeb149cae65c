"""Circuits from epoch to epoch, of all facts and of one."""
