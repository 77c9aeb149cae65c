"""Invented people, documents about them and prompts that ask, from a spec; do groups match?"""
