"""Other people's optimizers by name, as their packages have them; Muon gets its parameters split.

Those that need more (a closure, a state that their package forgets) stand in benchmarks/rivals and
go by import path. docs/rivals.md says how each is handled.
"""

from __future__ import annotations

import importlib.util

from surefoot_lab.errors import UserError

RIVALS = {
    "SGDScheduleFree": "schedulefree.SGDScheduleFree",
    "AdamWScheduleFree": "schedulefree.AdamWScheduleFree",
    "RAdamScheduleFree": "schedulefree.RAdamScheduleFree",
    "Prodigy": "prodigyopt.Prodigy",
    "DAdaptSGD": "dadaptation.DAdaptSGD",
    "DAdaptAdam": "dadaptation.DAdaptAdam",
    "DAdaptAdaGrad": "dadaptation.DAdaptAdaGrad",
    "COCOB": "parameterfree.COCOB",
    "Muon": "surefoot_lab.rivals.muon.Muon",
}
ADAPTED = {"Muon": "pytorch_optimizer"}  # what is installed for those of this package


def resolve(class_path: str) -> str:
    """The import path to build for a name; others stay as they are.

    Raises:
        UserError: it is a rival whose package is not installed.
    """
    path = RIVALS.get(class_path)
    if path is None:
        return class_path
    package = ADAPTED.get(class_path, path.partition(".")[0])
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"optimizer.class_path: {class_path} needs the package {package!r}; "
            "pip install 'surefoot[rivals]'"
        )
    return path
