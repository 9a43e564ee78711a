"""Thinking-mode rewards, one function or class per paper: whether to think, and how long.

Every module of this folder is imported with `laconic.rewards`.
"""
