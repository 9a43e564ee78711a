"""Rewards under the reward-function signatures of other training frameworks: TRL, verl and OpenRLHF.

None of them is imported, nor is torch, until a framework calls.
"""
