"""What makes a shell complete `surefoot`: `eval "$(surefoot --completion bash)"` when it starts."""

from __future__ import annotations

from collections.abc import Sequence

SHELLS = ("bash", "zsh", "fish")
_BASH = """\
_surefoot() {{
  local word=${{COMP_WORDS[COMP_CWORD]}}
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands}" -- "$word"))
  elif [[ $word == --* && " {takes} " == *" ${{COMP_WORDS[1]}} "* ]]; then
    COMPREPLY=($(compgen -W "{settings}" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}}
complete -o filenames -F _surefoot surefoot
"""
_FISH = """\
complete -c surefoot -n __fish_use_subcommand -f -a "{commands}"
for key in {settings}
  complete -c surefoot -n "__fish_seen_subcommand_from {takes}" -l (string sub -s 3 -- $key)
end
"""


def script(shell: str, commands: Sequence[str], takes_experiment: Sequence[str]) -> str:
    """The shell's words.

    Args:
        shell: one of `SHELLS`.
        commands: what follows `surefoot`.
        takes_experiment: those of them that take settings of an experiment.
    """
    from surefoot_lab.config import Experiment
    from surefoot_lab.values import fields_of

    words = {
        "commands": " ".join(commands),
        "takes": " ".join(takes_experiment),
        "settings": " ".join(f"--{setting.key}" for setting in fields_of(Experiment)),
    }
    if shell == "fish":
        return _FISH.format(**words)
    start = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return start + _BASH.format(**words)
