"""Inference policies: one file per family. Every module of this folder is imported with `laconic.inference.policies`.

`POLICIES` has them by name; `run_policy` runs one.
"""

import importlib
import pkgutil

from laconic.inference.policies.base import POLICIES, Answer, Ask, Policy, policy, run_policy

# A new file in this folder is found by itself.
for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

__all__ = ["POLICIES", "Answer", "Ask", "Policy", "policy", "run_policy"]
