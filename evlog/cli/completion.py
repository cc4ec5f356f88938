"""`evlog completion`: the script that has a shell complete evlog's command lines, and the answers to it.

The scripts call `evlog completion words -- WORD…` (bash: `evlog completion line -- LINE WORD`). That prints a
candidate a line, with a tab and a description after some of them; the line `:files` asks the shell for the
names of files.
"""

from __future__ import annotations

from evlog.cli._support import console
from evlog.cli._support.parameters import RAW, argument
from evlog.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from evlog.cli._support.parameters import Given

HELP: Final = """Print the script that makes a shell complete commands, options, streams and types.

Load it once from the shell's own start file, or put it where the shell looks for completions. The names of
streams, types and categories come from the store that the command line means. Those of a large store are kept
in the user's cache folder; `evlog help completion` says how.

\b
  evlog completion bash > evlog.bash && . ./evlog.bash
  evlog completion zsh > _evlog
  evlog completion fish > evlog.fish
"""

PARAMETERS: Final = (
    argument("SHELL", "bash, zsh or fish.", required=True),
    argument("WORDS", "What the script asks about.", RAW, many=True),
)

_BASH: Final = r"""# evlog's completion for bash: put this line into ~/.bashrc:  . <(evlog completion bash)
_evlog() {
    local line files=
    COMPREPLY=()
    while IFS= read -r line; do
        line=${line%%$'\t'*}
        if [[ $line == :files ]]; then files=1; else COMPREPLY+=("$(printf '%q' "$line")"); fi
    done < <("$1" completion line -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    if [[ $files ]]; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$2")
    elif [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[-=,] ]]; then
        compopt -o nospace
    fi
}
complete -F _evlog evlog
"""
_ZSH: Final = r"""#compdef evlog
# evlog's completion for zsh: a file _evlog in a folder of $fpath, or in ~/.zshrc:  . <(evlog completion zsh)
_evlog() {
    local line files= tab=$'\t'
    local -a values shown open open_shown
    while IFS= read -r line; do
        if [[ $line == :files ]]; then
            files=1
        elif [[ ${line%%$tab*} == *[-=,] ]]; then
            open+=("${line%%$tab*}")
            open_shown+=("${line/$tab/  -- }")
        else
            values+=("${line%%$tab*}")
            shown+=("${line/$tab/  -- }")
        fi
    done < <("${words[1]}" completion words -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#values )) && compadd -l -d shown -a values
    (( $#open )) && compadd -S '' -l -d open_shown -a open
    [[ -n $files ]] && _files
    return 0
}
if [[ $funcstack[1] == _evlog ]]; then
    _evlog "$@"
else
    compdef _evlog evlog
fi
"""
_FISH: Final = r"""# evlog's completion for fish: a file evlog.fish in ~/.config/fish/completions.
function __evlog_complete
    set -l words (commandline -opc)
    set -l found ($words[1] completion words -- $words[2..] (commandline -ct) 2>/dev/null)
    if contains -- :files $found
        __fish_complete_path (commandline -ct)
    end
    string match -v -- :files $found
end
complete -c evlog -f -a '(__evlog_complete)'
"""
_SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def command(given: Given) -> None:
    """Print a script, or candidates."""
    if given.shell in _SCRIPTS:
        console.write(_SCRIPTS[given.shell].encode())
        return
    if given.shell not in {"words", "line"}:
        raise InvalidArgument(f"no completion for {given.shell!r}", "use bash, zsh or fish")
    from evlog.cli._support import complete

    if given.shell == "words":
        found = complete.candidates(given.words or [""])
    else:
        line, word = [*given.words, "", ""][:2]
        found = complete.candidates_of_line(line, word)
    console.write_now("".join(f"{candidate}\n" for candidate in found).encode(errors="surrogateescape"))
    while complete.later:
        complete.later.pop()()
