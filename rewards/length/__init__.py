"""Length rewards, one function or class per paper.

Every module of this folder is imported with `laconic.rewards`.
"""
