"""Other people's optimizers, each handled as its authors say.

A name leads to the package's own class where that works as it stands, and to a thin class of this
package where something has to be handed over, switched or remembered; the authors' own import path
leads there too. docs/rivals.md says what was adapted. Those that papers compare with and few people
train with stand in benchmarks/rivals.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from surefoot_lab.errors import UserError

EXTRA = "pip install 'surefoot[rivals]'"


@dataclass(frozen=True)
class Rival:
    """Where an optimizer comes from.

    Attributes:
        package: the package that has to be installed, by its import name.
        path: import path of what is built.
        original: the authors' import path, where it is another.
    """

    package: str
    path: str
    original: str | None = None


_HERE = "surefoot_lab.rivals"

RIVALS: dict[str, Rival] = {
    "SGDScheduleFree": Rival("schedulefree", "schedulefree.SGDScheduleFree"),
    "AdamWScheduleFree": Rival("schedulefree", "schedulefree.AdamWScheduleFree"),
    "RAdamScheduleFree": Rival("schedulefree", "schedulefree.RAdamScheduleFree"),
    "Prodigy": Rival("prodigyopt", "prodigyopt.Prodigy"),
    "DAdaptSGD": Rival("dadaptation", "dadaptation.DAdaptSGD"),
    "DAdaptAdam": Rival("dadaptation", "dadaptation.DAdaptAdam"),
    "DAdaptAdaGrad": Rival("dadaptation", "dadaptation.DAdaptAdaGrad"),
    "DoG": Rival("dog", f"{_HERE}.distance.AveragedDoG", "dog.DoG"),
    "LDoG": Rival("dog", f"{_HERE}.distance.AveragedLDoG", "dog.LDoG"),
    "Momo": Rival("momo", f"{_HERE}.momentum_models.RememberingMomo", "momo.Momo"),
    "MomoAdam": Rival("momo", f"{_HERE}.momentum_models.RememberingMomoAdam", "momo.MomoAdam"),
    "COCOB": Rival("parameterfree", "parameterfree.COCOB"),
    "Muon": Rival("pytorch_optimizer", f"{_HERE}.muon.Muon", "pytorch_optimizer.Muon"),
}


def resolve(class_path: str) -> str:
    """The import path to build for a name or an authors' import path; others stay as they are.

    Args:
        class_path: as the experiment says it.

    Returns:
        What to import.

    Raises:
        UserError: it is a rival whose package is not installed.
    """
    originals = {rival.original: rival for rival in RIVALS.values() if rival.original}
    rival = RIVALS.get(class_path) or originals.get(class_path)
    if rival is None:
        return class_path
    if importlib.util.find_spec(rival.package) is None:
        raise UserError(
            f"optimizer.class_path: {class_path} needs the package {rival.package!r}; {EXTRA}"
        )
    return rival.path
